"""Accounts: API keys with their limits, kept as hashes in one JSON file.

A key is made of 32 random bytes, so a plain SHA-256 protects it. A slow hash protects passwords that can be
guessed.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import tempfile
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from smoothgate.errors import SmoothgateError

PREFIX = "sg-"
_RANDOM_BYTES = 32


class Account(BaseModel):
    """A client and its limits. A limit that is left out does not apply.

    Attributes:
        name: unique in its file. Logs call the client by it.
        key_sha256: SHA-256 of the key, hexadecimal.
        requests_per_minute: includes requests that are refused for another reason.
        samples_per_minute: noisy forwards that its requests may draw, counted in canvases of typical size.
        tokens_per_minute: of prompts and answers, as vLLM counts them.
        concurrent_requests: under way at the same time.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")
    key_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    requests_per_minute: int | None = Field(None, ge=1)
    samples_per_minute: int | None = Field(None, ge=1)
    tokens_per_minute: int | None = Field(None, ge=1)
    concurrent_requests: int | None = Field(None, ge=1)

    @property
    def cache_salt(self) -> str:
        """What keeps this account's parts of caches apart: others could time what they hold."""
        return hmac.digest(self.key_sha256.encode(), b"prefix cache", "sha256").hex()


_ACCOUNTS = TypeAdapter(list[Account])


class AccountBook:
    """The accounts of a file. It is read again when it changes, so keys rotate without a restart.

    Raises:
        SmoothgateError: code `bad_accounts`: the file cannot be read or does not hold accounts.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._stamp = _stamp(file)
        self._accounts = load(file)

    def find(self, key: str) -> Account | None:
        """The account of a key, or None. A wrong key takes as long as a right one."""
        digest = _digest(key)
        match = None
        for account in self._accounts:
            if hmac.compare_digest(account.key_sha256, digest):
                match = account
        return match

    def refresh(self) -> bool:
        """Read the file again if it has changed. Returns whether it has.

        Raises:
            SmoothgateError: the file is unusable now. The accounts stay as they were until it changes again.
        """
        stamp = _stamp(self._file)
        if stamp == self._stamp:
            return False
        self._stamp = stamp
        self._accounts = load(self._file)
        return True


def load(file: Path) -> list[Account]:
    """Read a file of accounts.

    Raises:
        SmoothgateError: code `bad_accounts`.
    """
    try:
        accounts = _ACCOUNTS.validate_json(file.read_bytes())
    except OSError as error:
        raise SmoothgateError(
            f"{file} cannot be read: {error.strerror}. `smoothgate accounts add NAME` makes one.",
            code="bad_accounts",
        ) from error
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise SmoothgateError(f"{file}: {where}: {first['msg']}", code="bad_accounts") from error
    if len({account.name for account in accounts}) < len(accounts):
        raise SmoothgateError(f"{file}: two accounts have the same name.", code="bad_accounts")
    return accounts


def save(file: Path, accounts: list[Account]) -> None:
    """Write a file of accounts in one step. Only its owner can read it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(dir=file.parent)
    with os.fdopen(handle, "wb") as out:
        out.write(_ACCOUNTS.dump_json(accounts, indent=2, exclude_none=True) + b"\n")
    Path(partial).replace(file)


def new(name: str, **limits: int | None) -> tuple[Account, str]:
    """A new account and its key. The key is kept nowhere.

    Args:
        name: of the account.
        limits: as the attributes of `Account`.
    """
    key = PREFIX + secrets.token_urlsafe(_RANDOM_BYTES)
    return Account.model_validate({"name": name, "key_sha256": _digest(key)} | limits), key


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def _stamp(file: Path) -> tuple[int, int] | None:
    """A value that changes when the file does, also where Kubernetes makes a link point to another file."""
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino

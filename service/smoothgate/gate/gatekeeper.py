"""Accounts at run time: whose key a request carries, and how much that account has left of its limits."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from smoothgate.errors import Overloaded, SmoothgateError, Unauthorized
from smoothgate.gate.account_metrics import AccountMetrics
from smoothgate.gate.accounts import Account, AccountBook
from smoothgate.gate.fleet_limits import FleetLimits
from smoothgate.gate.rate_limit import Bucket
from smoothgate.logs import get_logger

log = get_logger("access")


@dataclass(slots=True)
class _Limits:
    requests: Bucket | None
    samples: Bucket | None
    tokens: Bucket | None
    under_way: int = 0


class Gatekeeper:
    """Knows the accounts and what each has used.

    Args:
        accounts: file of accounts; None: everyone may ask, and nothing is limited.
        refresh_seconds: the file is read again at most this often.
        fleet: keeps the limits per minute in step with those of other replicas; None: they hold here alone.

    Raises:
        SmoothgateError: code `bad_accounts`: the file cannot be used.
    """

    def __init__(
        self, accounts: Path | None, refresh_seconds: float = 1.0, fleet: FleetLimits | None = None
    ) -> None:
        self._book = None if accounts is None else AccountBook(accounts)
        self._refresh_seconds = refresh_seconds
        self._refreshed = time.monotonic()
        self._limits: dict[Account, _Limits] = {}
        self._metrics = AccountMetrics()
        self.fleet = fleet

    def admit(self, key: str | None) -> Account | None:
        """The account that a key belongs to; None where there are no accounts.

        Raises:
            Unauthorized: no key, or a wrong one.
            Overloaded: more requests than the account may send.
        """
        if self._book is None:
            return None
        self._refresh(self._book)
        account = None if key is None else self._book.find(key)
        if account is None:
            raise Unauthorized("A valid API key is needed: Authorization: Bearer KEY.")
        self._metrics.asked(account)
        self._take(account, self._of(account).requests, 1, "requests")
        return account

    def charge(self, account: Account | None, samples: int) -> None:
        """Take what a request may draw from the samples of its account, counted in canvases of typical size.

        Raises:
            Overloaded: more than the account may draw now.
        """
        if account is not None:
            self._take(account, self._of(account).samples, samples, "samples")
            self._metrics.worked(account, samples)

    def require_tokens(self, account: Account | None) -> None:
        """Refuse a chat of an account whose tokens are used up.

        Raises:
            Overloaded: code `tokens_per_minute`.
        """
        if account is not None:
            self._take(account, self._of(account).tokens, 0, "tokens")

    def spend_tokens(self, account: Account | None, tokens: int | None) -> None:
        """Count the tokens of a chat that has ended; None, where nobody knows: as many as a minute's."""
        if account is None:
            return
        if tokens is not None:
            self._metrics.used(account, tokens)
        if account.tokens_per_minute is not None:
            bucket = self._of(account).tokens
            assert bucket is not None  # noqa: S101
            bucket.correct(account.tokens_per_minute if tokens is None else tokens)

    @contextmanager
    def under_way(self, account: Account | None) -> Iterator[None]:
        """Count a request among those of its account that are under way.

        Raises:
            Overloaded: code `concurrent_requests`.
        """
        if account is None:
            yield
            return
        limits = self._of(account)
        most = account.concurrent_requests
        if most is not None and limits.under_way >= most:
            self._metrics.refused(account, "concurrent_requests")
            raise Overloaded(
                f"You may have {most} requests under way.", code="concurrent_requests", retry_after=1
            )
        limits.under_way += 1
        try:
            yield
        finally:
            limits.under_way -= 1

    def correct(self, account: Account | None, samples: int) -> None:
        """Take more than was charged, or give back where it is negative. Later requests wait for a debt."""
        if account is not None:
            self._metrics.worked(account, samples)
            if (bucket := self._of(account).samples) is not None:
                bucket.correct(samples)

    def _take(self, account: Account, bucket: Bucket | None, amount: int, of: str) -> None:
        if bucket is not None and (seconds := bucket.take(amount)):
            self._metrics.refused(account, f"{of}_per_minute")
            raise Overloaded(
                f"Your limit of {of} per minute is used up.", code=f"{of}_per_minute", retry_after=seconds
            )

    def _of(self, account: Account) -> _Limits:
        if account not in self._limits:
            self._limits[account] = _Limits(
                self._bucket(account, "requests", account.requests_per_minute),
                self._bucket(account, "samples", account.samples_per_minute),
                self._bucket(account, "tokens", account.tokens_per_minute),
            )
        return self._limits[account]

    def _bucket(self, account: Account, of: str, per_minute: int | None) -> Bucket | None:
        if per_minute is None:
            return None
        bucket = Bucket(per_minute)
        if self.fleet is not None:
            self.fleet.share(f"{account.name}/{of}", bucket)
        return bucket

    def _refresh(self, book: AccountBook) -> None:
        if time.monotonic() - self._refreshed < self._refresh_seconds:
            return
        self._refreshed = time.monotonic()
        try:
            if book.refresh():
                log.info("accounts read again")
        except SmoothgateError as error:
            log.error("accounts not read again; the old ones hold", reason=error.message)

"""A run that can be resumed: its rows so far, its terms, its key and the secret of its noise, in a folder.

The folder stands beside the table until that is complete. A row is on the disk before the next one counts,
so that a run that was killed goes on where it was, with the same key and the same noise.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

from smoothgate.certify.signing import SigningKey, jwks
from smoothgate.datasets.rows import Row, table
from smoothgate.errors import Unacceptable

_ROWS, _TERMS, _KEY, _SECRET = "rows.jsonl", "terms.json", "signing-key.pem", "noise-secret"

Json = dict[str, Any]


class RunFolder:
    """The folder of one run. Use it as a context manager.

    Args:
        out: the table that the run makes.
        terms: whatever its rows depend on.
        signing_key: file of the private key; None: the run makes one.
        noise_secret: file of the secret; None: the run makes one.

    Attributes:
        rows: by path, those of earlier attempts and of this one.

    Raises:
        Unacceptable: code `exists`: the table is there already; `other_terms`: a run on other terms left the
            folder; `not_writable`.
    """

    def __init__(
        self, out: Path, terms: Json, *, signing_key: Path | None = None, noise_secret: Path | None = None
    ) -> None:
        if out.exists():
            raise Unacceptable(f"{out} exists already.", code="exists")
        self._out = out
        self._folder = _folder(out)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._require_same(terms)
            self.signing_key = signing_key or self._own(_KEY, SigningKey.generate().pem())
            self.noise_secret = noise_secret or self._own(_SECRET, secrets.token_hex(32))
            self.rows = self._read()
            self._file = (self._folder / _ROWS).open("a")
        except OSError as error:
            raise Unacceptable(f"{self._folder}: {error.strerror}.", code="not_writable") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, row: Row) -> None:
        """Keep a row. A second one of the same path does not count."""
        if row["path"] in self.rows:
            return
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self.rows[row["path"]] = row

    def finish(self, paths: Sequence[str]) -> None:
        """Write the table, its rows in the order of the paths, and the public key; then delete the folder."""
        import pyarrow.parquet as pq

        rows = [self.rows[path] for path in paths]
        unfinished = self._folder / "table"
        pq.write_table(table(rows), unfinished)
        key = SigningKey.load(self.signing_key.read_text())
        keys_file(self._out).write_text(json.dumps(jwks([key])) + "\n")
        unfinished.replace(self._out)
        self._file.close()
        shutil.rmtree(self._folder)

    def _require_same(self, terms: Json) -> None:
        file = self._folder / _TERMS
        if not file.exists():
            file.write_text(json.dumps(terms))
            return
        earlier = json.loads(file.read_text())
        here = json.loads(json.dumps(terms))
        if differing := sorted(k for k in earlier.keys() | here.keys() if earlier.get(k) != here.get(k)):
            raise Unacceptable(
                f"{self._folder} holds an unfinished run on other terms ({', '.join(differing)}). Go on with "
                "the same, or delete the folder.",
                code="other_terms",
            )

    def _own(self, name: str, content: str) -> Path:
        """A file that nobody else may read, made once."""
        path = self._folder / name
        if not path.exists():
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(content)
        return path

    def _read(self) -> dict[str, Row]:
        """The rows so far. Half a line at the end, which a crash leaves, is cut off."""
        file = self._folder / _ROWS
        if not file.exists():
            return {}
        whole, _, _ = file.read_bytes().rpartition(b"\n")
        file.write_bytes(whole + b"\n" if whole else b"")
        rows = [cast(Row, json.loads(line)) for line in whole.splitlines()]
        return {row["path"]: row for row in rows}


def rows_file(out: Path) -> Path:
    """Where the rows of an unfinished table are, one in each line, as JSON."""
    return _folder(out) / _ROWS


def keys_file(out: Path) -> Path:
    """Where the public keys of a table are."""
    return out.with_name(f"{out.stem}.keys.json")


def _folder(out: Path) -> Path:
    return out.with_name(f"{out.name}.run")

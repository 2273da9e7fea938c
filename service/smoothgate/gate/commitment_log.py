"""The log of commitments: an append-only Merkle log (RFC 9162) in a SQLite file.

It shows that request and seed of a certificate were fixed before any noise was drawn. An entry is never
changed or deleted, and a checkpoint that was handed out stays true. One transaction per request is written
before sampling, and one after it. Each is on the disk before the request goes on (`synchronous = FULL`), and
after a crash it is there as a whole or not at all. An entry costs at most about log2(size) hashes.

While nothing can be written, nothing is certified. `CommitmentLog.watch` writes and deletes a few pages every
few seconds. So a full disk is known before a request meets it, and so is its end.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import sqlite3
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from smoothgate import metrics
from smoothgate.certify.certificate import Commitment
from smoothgate.certify.commitment import certificate_entry, commitment_entry, commitment_of
from smoothgate.certify.merkle import Nodes, completed, consistency_path, inclusion_path, leaf_hash, root
from smoothgate.errors import NotReady, SmoothgateError
from smoothgate.logs import get_logger
from smoothgate.off_loop import off_loop

T = TypeVar("T")

FILE = "commitments.sqlite"

_RETRY_SECONDS = 5.0
_LOCKED_SECONDS = 5.0
_WATCH_SECONDS = 5.0
# More than the entries of a request take, so that what is full fails here first.
_PROBE_BYTES = 1 << 16
_SCHEMA = """
CREATE TABLE IF NOT EXISTS log (id TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS entries (number INTEGER PRIMARY KEY, hash BLOB NOT NULL, content TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS by_hash ON entries (hash);
CREATE TABLE IF NOT EXISTS nodes (
    level INTEGER, number INTEGER, hash BLOB NOT NULL, PRIMARY KEY (level, number)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS probe (number INTEGER PRIMARY KEY, content BLOB NOT NULL);
"""

log = get_logger("log")


class CommitmentLog:
    """A log in a folder. It is written by one service at a time.

    Args:
        folder: is created where it does not exist. It must be on a disk of this machine.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / FILE
        # Proofs are read beside what is written.
        self._writer: sqlite3.Connection | None = None
        self._reader: sqlite3.Connection | None = None
        self._writing, self._reading = threading.Lock(), threading.Lock()
        self._id = ""
        self._inode: tuple[int, int] | None = None
        self._writable = False

    def problems(self) -> dict[str, str]:
        """`log`: cannot be written, from a write that fails until `watch` has written again."""
        return {} if self._writable else {"log": "cannot be written"}

    def open(self) -> None:
        """Open the file, or begin a new log.

        Raises:
            SmoothgateError: code `bad_log`: the file cannot be opened, or is no log.
        """
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self._file.touch(0o600)
            self._writer, self._reader = self._connected(), self._connected()
            self._writer.executescript(_SCHEMA)
            with self._writer:
                self._writer.execute("BEGIN IMMEDIATE")
                if self._writer.execute("SELECT id FROM log").fetchone() is None:
                    self._writer.execute("INSERT INTO log VALUES (?)", (secrets.token_hex(16),))
            (self._id,) = self._writer.execute("SELECT id FROM log").fetchone()
            self._inode = self._identity()
            self._writable = True
            metrics.LOG_UP.set(1)
            metrics.LOG_ENTRIES.set(_size(self._writer))
        except (OSError, sqlite3.Error) as error:
            self.close()
            raise SmoothgateError(
                f"The log of commitments {self._file} cannot be used: {error}.", code="bad_log"
            ) from error

    def _connected(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._file, timeout=_LOCKED_SECONDS, isolation_level=None, check_same_thread=False
        )
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        return connection

    def close(self) -> None:
        """Close the file."""
        for connection in (self._reader, self._writer):
            if connection is not None:
                connection.close()
        self._reader = self._writer = None

    async def watch(self) -> None:
        """Find out again and again whether something can be written. Returns only when it is cancelled."""
        while True:
            await asyncio.sleep(_WATCH_SECONDS)
            with suppress(NotReady):
                await off_loop(self._probe)

    async def commit(
        self, requests: Sequence[tuple[Mapping[str, object], str | Sequence[str]]], secret_digest: str
    ) -> list[Commitment]:
        """Commit to requests of which nothing is being sampled yet.

        Args:
            requests: request and seed of each, as `commitment_of` takes them.
            secret_digest: of the secret that the seeds follow from.

        Raises:
            NotReady: code `log_unavailable`: the log cannot be written to.
        """
        nonces = [secrets.token_hex(16) for _ in requests]
        entries = [
            commitment_entry(secret_digest, commitment_of(nonce, request, seed))
            for nonce, (request, seed) in zip(nonces, requests, strict=True)
        ]
        first = await off_loop(self._append, entries)
        return [
            Commitment(log=self._id, number=number, nonce=nonce, secret_digest=secret_digest)
            for number, nonce in enumerate(nonces, first)
        ]

    async def record(self, signed: Sequence[tuple[Commitment, str]]) -> None:
        """Take in certificates (JWS), with their commitments; raises as `commit`."""
        await off_loop(self._append, [certificate_entry(each.number, jws) for each, jws in signed])

    def head(self) -> tuple[str, int, bytes]:
        """Identifier, size and root; raises as `inclusion`."""

        def read(reader: sqlite3.Connection) -> tuple[str, int, bytes]:
            size = _size(reader)
            return self._id, size, root(size, _nodes(reader))

        return self._read(read)

    def inclusion(self, number: int, size: int) -> tuple[bytes, list[bytes]]:
        """Hash and inclusion proof of an entry in the tree of the first `size` entries, number < size.

        Raises:
            NotReady: code `log_unavailable`: the log cannot be read.
        """

        def read(reader: sqlite3.Connection) -> tuple[bytes, list[bytes]]:
            node = _nodes(reader)
            return node(0, number), inclusion_path(number, size, node)

        return self._read(read)

    def consistency(self, first: int, size: int) -> list[bytes]:
        """The proof that the first `size` entries begin with the first `first` ones, 0 < first <= size.

        Raises:
            NotReady: as `inclusion`.
        """
        return self._read(lambda reader: consistency_path(first, size, _nodes(reader)))

    def find(self, leaf: bytes) -> int | None:
        """Number of the first entry with this hash, or None; raises as `inclusion`."""

        def read(reader: sqlite3.Connection) -> int | None:
            (number,) = reader.execute("SELECT min(number) FROM entries WHERE hash = ?", (leaf,)).fetchone()
            return number  # type: ignore[no-any-return]

        return self._read(read)

    def _append(self, contents: Sequence[bytes]) -> int:
        """Add entries. Returns the number of the first."""

        def append(writer: sqlite3.Connection) -> int:
            first, node = _size(writer), _nodes(writer)
            for number, content in enumerate(contents, first):
                leaf = leaf_hash(content)
                made = completed(number, leaf, node)
                writer.execute("INSERT INTO entries VALUES (?, ?, ?)", (number, leaf, content.decode()))
                writer.executemany("INSERT INTO nodes VALUES (?, ?, ?)", made)
            return first

        try:
            first = self._write(append)
        except NotReady:
            metrics.LOG_FAILURES.inc()
            raise
        metrics.LOG_ENTRIES.set(first + len(contents))
        return first

    def _probe(self) -> None:
        """Write and delete a few pages; raises as `commit`."""
        self._write(
            lambda w: w.execute("INSERT OR REPLACE INTO probe VALUES (0, zeroblob(?))", (_PROBE_BYTES,))
        )
        self._write(lambda w: w.execute("DELETE FROM probe"))
        if not self._writable:
            log.info("the log of commitments can be written again")
            self._writable = True
            metrics.LOG_UP.set(1)

    def _write(self, change: Callable[[sqlite3.Connection], T]) -> T:
        """Make a change in a transaction of its own; raises as `commit`."""
        with self._writing:
            try:
                if self._writer is None:
                    raise sqlite3.OperationalError("it is closed")
                if self._identity() != self._inode:
                    raise FileNotFoundError("another file has taken its place")
                with self._writer as writer:
                    writer.execute("BEGIN IMMEDIATE")
                    return change(writer)
            except (OSError, sqlite3.Error) as error:
                self._writable = False
                metrics.LOG_UP.set(0)
                raise _unavailable(error) from error

    def _identity(self) -> tuple[int, int]:
        """Which file stands under the name. SQLite would go on writing to one that was deleted."""
        status = os.stat(self._file)
        return status.st_dev, status.st_ino

    def _read(self, query: Callable[[sqlite3.Connection], T]) -> T:
        with self._reading:
            try:
                if self._reader is None:
                    raise sqlite3.OperationalError("it is closed")
                return query(self._reader)
            except sqlite3.Error as error:
                raise _unavailable(error) from error


def _unavailable(error: Exception) -> NotReady:
    log.error("the log of commitments cannot be used", reason=str(error))
    return NotReady(
        "The log of commitments cannot be used, and nothing is certified without it.",
        code="log_unavailable",
        retry_after=_RETRY_SECONDS,
    )


def _size(connection: sqlite3.Connection) -> int:
    (size,) = connection.execute("SELECT coalesce(max(number) + 1, 0) FROM entries").fetchone()
    return int(size)


def _nodes(connection: sqlite3.Connection) -> Nodes:
    def node(level: int, number: int) -> bytes:
        query = "SELECT hash FROM nodes WHERE level = ? AND number = ?"
        (found,) = connection.execute(query, (level, number)).fetchone()
        return bytes(found)

    return node

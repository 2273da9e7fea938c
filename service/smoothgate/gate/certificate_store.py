"""An append-only record of certificates and the scores that they rest on, for audits."""

from __future__ import annotations

import json
import mmap
import os
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

FILE = "certificates.jsonl"
#: Most certificates that `CertificateStore.find` gives.
MOST_FOUND = 100


class CertificateStore:
    """Writes one JSON object per line: `{"request_id", "client", "jws", "selection_scores",
    "certification_scores"}`.

    A file that would grow past its limit becomes `certificates.jsonl.1`. The file of that name before becomes
    `.2` and so on, and the oldest is deleted.

    Args:
        folder: is created where it does not exist.
        max_bytes: size of a file.
        files: number of files that are kept, with the one that is written to.
    """

    def __init__(self, folder: Path, *, max_bytes: int, files: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / FILE
        self._max_bytes = max_bytes
        self._files = files
        self._lock = threading.Lock()
        self._one_search = threading.Lock()

    def append(
        self,
        jws: str,
        selection: Sequence[float],
        certification: Sequence[float],
        *,
        request_id: str = "",
        client: str | None = None,
    ) -> None:
        """Write one whole line and hand it to the kernel.

        Args:
            jws: the signed certificate.
            selection: scores of its samples.
            certification: the same.
            request_id: of the request.
            client: name of its account; None: there are no accounts.

        Raises:
            OSError: the disk is full, or the folder cannot be written to.
        """
        entry = _owner(request_id, client) | {
            "jws": jws,
            "selection_scores": list(selection),
            "certification_scores": list(certification),
        }
        line = json.dumps(entry, allow_nan=False).encode() + b"\n"
        with self._lock:
            self._rotate_for(len(line))
            descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                size = os.fstat(descriptor).st_size
                if os.write(descriptor, line) != len(line):
                    # Half a line would spoil the file for its readers.
                    os.ftruncate(descriptor, size)
                    raise OSError("the disk is full")
            finally:
                os.close(descriptor)

    def find(self, request_id: str, client: str | None) -> list[str]:
        """The signed certificates of a client's request, in the order they were kept. All files are
        searched. One search runs at a time.

        Args:
            request_id: of the request. Where a client has used one again, the latest `MOST_FOUND` count.
            client: name of its account; None: there are no accounts.

        Raises:
            OSError: a file cannot be read.
        """
        begins = json.dumps(_owner(request_id, client))[:-1].encode() + b","
        found: deque[str] = deque(maxlen=MOST_FOUND)
        with self._one_search:
            with self._lock:
                files = [path.open("rb") for path in reversed(self._paths()) if path.exists()]
            with ExitStack() as stack:
                for file in files:
                    stack.enter_context(file)
                for file in files:
                    if os.fstat(file.fileno()).st_size:
                        lines = stack.enter_context(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
                        found.extend(_found(lines, begins))
        return list(found)

    def _paths(self) -> list[Path]:
        """The files, the newest first."""
        older = (self._path.with_suffix(f".jsonl.{number}") for number in range(1, self._files))
        return [self._path, *older]

    def _rotate_for(self, size: int) -> None:
        if not self._path.exists() or self._path.stat().st_size + size <= self._max_bytes:
            return
        paths = self._paths()
        for newer, older in reversed(list(pairwise(paths))):
            if newer.exists():
                newer.replace(older)
        self._path.unlink(missing_ok=True)


def _owner(request_id: str, client: str | None) -> dict[str, str | None]:
    return {"request_id": request_id, "client": client}


def _found(lines: mmap.mmap, begins: bytes) -> Iterator[str]:
    at = lines.find(begins)
    while at >= 0:
        lines.seek(at)
        line = lines.readline()
        if line.endswith(b"\n"):  # else it is being written
            yield json.loads(line)["jws"]
        at = lines.find(begins, at + len(begins))

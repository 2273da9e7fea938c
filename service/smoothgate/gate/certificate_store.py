"""An append-only record of certificates and the scores that they rest on, for audits."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Sequence
from pathlib import Path

FILE = "certificates.jsonl"


class CertificateStore:
    """Writes one JSON object per line: `{"jws", "selection_scores", "certification_scores"}`.

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

    def append(self, jws: str, selection: Sequence[float], certification: Sequence[float]) -> None:
        """Write one whole line and hand it to the kernel.

        Raises:
            OSError: the disk is full, or the folder cannot be written to.
        """
        entry = {"jws": jws, "selection_scores": list(selection), "certification_scores": list(certification)}
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

    def _rotate_for(self, size: int) -> None:
        if not self._path.exists() or self._path.stat().st_size + size <= self._max_bytes:
            return
        for number in range(self._files - 1, 0, -1):
            older = self._path.with_suffix(f".jsonl.{number}")
            newer = self._path if number == 1 else self._path.with_suffix(f".jsonl.{number - 1}")
            if newer.exists():
                newer.replace(older)
        self._path.unlink(missing_ok=True)

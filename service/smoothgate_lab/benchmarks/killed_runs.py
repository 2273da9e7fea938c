"""`smoothgate certify` as a process that is killed in the middle, or that loses one of its workers on Ray."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from smoothgate.datasets.run_folder import rows_file
from smoothgate.errors import SmoothgateError

#: Actors of Ray.
WORKERS = 2
_POLL_SECONDS = 0.01
# A start of Ray, with models in all workers, on a machine that does other things too.
_SILENT_SECONDS = 600
_STOP_SECONDS = 60
# How Ray names the process of an actor of `map_batches`.
_ACTOR = "MapWorker"
# Characters of a failed run's output that the message of an error repeats.
_SAID = 2000


class KilledRun:
    """A run of `smoothgate certify` over pictures.

    Args:
        words: of the command, without `--out`.
        out: the table that it makes.
        pictures: number of pictures.
        step: called with the number of rows on the disk.

    Attributes:
        out: the table.
        kept: number of rows on the disk when something was killed; 0 before.
        first_row_seconds: from the start of the command to its first row; None before.
        seconds: that its processes ran.
    """

    def __init__(self, words: Sequence[str], out: Path, pictures: int, step: Callable[[int], None]) -> None:
        self._words = [sys.executable, "-c", "from smoothgate.cli.main import app; app()"]
        self._words += ["certify", *words, "--out", str(out)]
        self.out = out
        self._log = out.with_suffix(".log")
        self._pictures = pictures
        self._step = step
        self.kept = 0
        self.first_row_seconds: float | None = None
        self.seconds = 0.0

    def alone(self) -> None:
        """Run it, kill its process in the middle, and run it again to its end.

        Raises:
            SmoothgateError: code `not_killed`: it ended before; `certify_failed`.
        """
        with self._running() as process:
            self._until(process, self._pictures // 2)
            process.kill()
            process.wait()
            self._kept_is(_Growing(rows_file(self.out)).lines())
        with self._running() as process:
            self._to_end(process)

    def on_ray(self) -> None:
        """Run it on a Ray of this machine, with `WORKERS`, and kill the process of one in the middle.

        Raises:
            SmoothgateError: code `not_killed`: it ended before, or its workers were not found;
                `certify_failed`.
        """
        self._words += ["--ray", "--workers", str(WORKERS)]
        with self._running() as process:
            rows = self._until(process, self._pictures // 2)
            below = psutil.Process(process.pid).children(recursive=True)
            workers = [each for each in below if _is_actor(each)]
            if len(workers) != WORKERS:
                raise SmoothgateError(
                    f"There are {len(workers)} processes of Ray's workers, not {WORKERS}.", code="not_killed"
                )
            workers[0].kill()
            self._kept_is(rows)
            self._to_end(process)

    @contextmanager
    def _running(self) -> Iterator[subprocess.Popen[bytes]]:
        began = time.perf_counter()
        with self._log.open("ab") as log:
            process = subprocess.Popen(self._words, stdout=log, stderr=log)  # noqa: S603
        try:
            yield process
        finally:
            process.terminate()  # Ray ends with the command
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            self.seconds += time.perf_counter() - began

    def _until(self, process: subprocess.Popen[bytes], rows: int) -> int:
        """Wait until at least so many rows are on the disk. Returns their number."""
        for lines in self._followed(process):
            if lines >= rows:
                return lines
        if process.returncode:
            raise self._failed(f"ended with {process.returncode}")
        raise _too_late()

    def _to_end(self, process: subprocess.Popen[bytes]) -> None:
        for _ in self._followed(process):
            pass
        if process.returncode or not self.out.exists():
            raise self._failed(f"ended with {process.returncode}")

    def _followed(self, process: subprocess.Popen[bytes]) -> Iterator[int]:
        """The number of rows on the disk, whenever it has changed, until the process ends."""
        began = heard = time.perf_counter()
        rows, seen = _Growing(rows_file(self.out)), 0
        while process.poll() is None:
            if (lines := rows.lines()) > seen:
                seen, heard = lines, time.perf_counter()
                if self.first_row_seconds is None:
                    self.first_row_seconds = heard - began
                self._step(seen)
                yield seen
            if time.perf_counter() - heard > _SILENT_SECONDS:
                raise self._failed(f"made no row for {_SILENT_SECONDS} s")
            time.sleep(_POLL_SECONDS)

    def _kept_is(self, rows: int) -> None:
        if rows >= self._pictures or self.out.exists():
            raise _too_late()
        self.kept = rows

    def _failed(self, how: str) -> SmoothgateError:
        said = self._log.read_text(errors="replace")[-_SAID:]
        return SmoothgateError(f"smoothgate certify {how}: {said}", code="certify_failed")


class _Growing:
    """A file that others append lines to, which may not be there yet."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = 0
        self._lines = 0

    def lines(self) -> int:
        """Number of whole lines so far. Reads only what is new."""
        with suppress(FileNotFoundError), self._path.open("rb") as file:
            file.seek(self._read)
            new = file.read()
            self._read += len(new)
            self._lines += new.count(b"\n")
        return self._lines


def _too_late() -> SmoothgateError:
    return SmoothgateError(
        "The run ended before anything could be killed: take more pictures.", code="not_killed"
    )


def _is_actor(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return any(_ACTOR in word for word in process.cmdline())
    return False

"""The device of one sampler thread: its cores, or its CUDA device and its own stream there."""

from __future__ import annotations

import time

import torch

#: A point in the work of a device: an event of its stream, or a time where it does not run ahead.
Mark = torch.cuda.Event | float


class Device:
    """Where one thread works.

    Args:
        place: the device.
        threads: CPU threads that the thread may use.

    Attributes:
        place: the device.
        runs_ahead: whether work is queued on the device and done later, as on CUDA.
    """

    def __init__(self, place: torch.device, threads: int = 1) -> None:
        self.place = place
        self.runs_ahead = place.type == "cuda"
        self._threads = threads
        self._stream: torch.cuda.Stream | None = None

    def enter(self) -> None:
        """Make the calling thread work here from now on. A thread does this before anything else.

        Without it, a thread works on CUDA's first device, and an event that it records says nothing about
        the work on another one.
        """
        if self.runs_ahead:
            torch.cuda.set_device(self.place)
            torch.cuda.synchronize(self.place)  # what other streams have put there is complete
            self._stream = torch.cuda.Stream(self.place)  # type: ignore[no-untyped-call]
            torch.cuda.set_stream(self._stream)
        elif self.place.type == "cpu":
            torch.set_num_threads(self._threads)

    def mark(self) -> Mark:
        """This point in the work that was queued so far."""
        if not self.runs_ahead:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(self._stream or torch.cuda.current_stream(self.place))
        return event


def wait_for(mark: Mark) -> None:
    """Wait until the device has come to a point."""
    if not isinstance(mark, float):
        mark.synchronize()


def seconds_between(start: Mark, end: Mark) -> float:
    """Time of the device between two points that it has come to."""
    if isinstance(start, float) or isinstance(end, float):
        assert isinstance(start, float) and isinstance(end, float)  # noqa: S101, PT018
        return end - start
    return float(start.elapsed_time(end)) / 1000

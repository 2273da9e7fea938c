"""What a thread tells CUDA, checked without a GPU: calls are recorded in the place of torch.cuda."""

from typing import Any

import pytest
import torch

from smoothgate.sampling.device import Device, seconds_between, wait_for

SECOND = torch.device("cuda:1")


class _Cuda:
    """Records what is called, in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[tuple[Any, ...]] = []
        calls = self.calls

        class Event:
            def __init__(self, *, enable_timing: bool = False) -> None:
                self.timed = enable_timing

            def record(self, stream: object = None) -> None:
                calls.append(("record", stream, self.timed))

            def synchronize(self) -> None:
                calls.append(("synchronize event",))

            def elapsed_time(self, end: object) -> float:
                return 250.0

        for name in ("set_device", "set_stream", "synchronize"):
            monkeypatch.setattr(torch.cuda, name, lambda *given, name=name: calls.append((name, *given)))
        monkeypatch.setattr(torch.cuda, "Stream", lambda place: f"stream of {place}")
        monkeypatch.setattr(torch.cuda, "Event", Event)


def test_a_thread_works_on_its_own_device_and_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise an event lands on the first device, and scores are read before they are there."""
    cuda = _Cuda(monkeypatch)
    device = Device(SECOND)
    device.enter()
    assert [call for call in cuda.calls if call[0].startswith("set_")] == [
        ("set_device", SECOND),
        ("set_stream", "stream of cuda:1"),
    ]
    device.mark()
    assert cuda.calls[-1] == ("record", "stream of cuda:1", True)


def test_time_is_that_of_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = _Cuda(monkeypatch)
    device = Device(SECOND)
    device.enter()
    began, ended = device.mark(), device.mark()
    wait_for(ended)
    assert cuda.calls[-1] == ("synchronize event",)
    assert seconds_between(began, ended) == 0.25


def test_a_cpu_does_not_run_ahead() -> None:
    device = Device(torch.device("cpu"), 1)
    began, ended = device.mark(), device.mark()
    wait_for(ended)
    assert 0 <= seconds_between(began, ended) < 10
    assert not device.runs_ahead

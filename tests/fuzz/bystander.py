"""A client that behaves, in a process of its own, so that the fuzzer's checks do not delay its clock."""

import multiprocessing
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event

import httpx

from tests.fuzz.request import FEW_TOKENS
from tests.fuzz.sending import SECONDS

_PAUSE_SECONDS = 0.25
_START_SECONDS = 60.0


@dataclass(slots=True)
class Bystander:
    """What it saw; complete when it is over.

    Attributes:
        waited: its slowest `probe` and `answer`, in seconds.
        refused: statuses other than 200.
    """

    waited: dict[str, float] = field(default_factory=lambda: {"probe": 0.0, "answer": 0.0})
    refused: list[int] = field(default_factory=list)


@contextmanager
def standing_by(url: str) -> Iterator[Bystander]:
    """Let it ask a service meanwhile, as a client does that knows nothing of the others.

    Its start and its end take a second or two, in which the caller waits.

    Raises:
        RuntimeError: it did not start, or a request of it got no answer.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    over = context.Event()
    process = context.Process(target=_stand_by, args=(url, over, theirs), daemon=True)
    process.start()
    theirs.close()
    seen = Bystander()
    try:
        _told(ours, _START_SECONDS)
        yield seen
        over.set()
        found: Bystander = _told(ours, 2 * SECONDS + _PAUSE_SECONDS)
        seen.waited, seen.refused = found.waited, found.refused
    finally:
        process.kill()
        process.join()
        process.close()
        ours.close()


def _told(connection: Connection, seconds: float) -> Bystander:
    try:
        if connection.poll(seconds):
            seen: Bystander = connection.recv()
            return seen
    except EOFError:
        pass
    raise RuntimeError("The client that stands by has failed; its traceback is above.")


def _stand_by(url: str, over: Event, told: Connection) -> None:
    seen = Bystander()
    with httpx.Client(base_url=url, timeout=SECONDS, trust_env=False) as client:
        probe = client.build_request("GET", "/health/live")
        answer = client.build_request("POST", "/v1/chat", json={"message": "Hello", "max_tokens": FEW_TOKENS})
        told.send(seen)
        while True:
            for name, request in (("probe", probe), ("answer", answer)):
                began = time.perf_counter()
                status = client.send(request).status_code
                seen.waited[name] = max(seen.waited[name], time.perf_counter() - began)
                if status != httpx.codes.OK:
                    seen.refused.append(status)
            if over.wait(_PAUSE_SECONDS):
                told.send(seen)
                return

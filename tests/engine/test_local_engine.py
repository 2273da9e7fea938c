"""Supervision of a stand-in for vLLM that fails on demand."""

import asyncio
import os
import signal
import stat
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio
from structlog.typing import EventDict

from smoothgate.engine import EngineState, EngineStatus, LocalEngine, Supervision, VLLMOptions, local_engine
from smoothgate.errors import EngineTimedOut, NotReady
from tests import processes
from tests.waiting import eventually, until_ready

pytestmark = pytest.mark.asyncio

FAKE = Path(__file__).with_name("fake_vllm.py")
CHAT = {"model": "m", "messages": []}
OPTIONS = VLLMOptions(model="m", served_model_name="m", drain_seconds=600)
READY, STARTING, BACKOFF, STOPPED = (
    EngineState.READY,
    EngineState.STARTING,
    EngineState.BACKOFF,
    EngineState.STOPPED,
)

Engine = Callable[..., LocalEngine]


def running(engine: LocalEngine) -> dict[int, str]:
    """Those of guard, stand-in and its child that live."""
    return processes.mentioning(str(engine.socket))


class History(list[EngineStatus]):
    @property
    def states(self) -> list[EngineState]:
        return [status.state for status in self]


@pytest.fixture
def history() -> History:
    return History()


@pytest_asyncio.fixture
async def make(monkeypatch: pytest.MonkeyPatch, history: History) -> AsyncIterator[Engine]:
    engines: list[LocalEngine] = []

    def engine(fault: str = "", *, read_timeout: float = 60.0, **supervision: float) -> LocalEngine:
        monkeypatch.setattr(
            local_engine,
            "vllm_command",
            lambda options, socket, **_: [sys.executable, str(FAKE), str(socket), fault],
        )
        fast = {"first_pause": 0.05, "longest_pause": 0.2, "health_interval": 0.05}
        engines.append(
            LocalEngine(
                OPTIONS,
                Supervision(**(fast | supervision)),
                read_timeout=read_timeout,
                on_change=history.append,
            )
        )
        return engines[-1]

    yield engine
    for each in engines:
        await each.stop()
        assert not running(each)


async def test_starts_answers_and_stops(make: Engine, history: History) -> None:
    engine = make()
    with pytest.raises(NotReady):
        await engine.client.chat(CHAT)
    await engine.start()
    await until_ready(engine)
    folder = engine.socket.parent
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert await engine.client.chat(CHAT) == {"choices": []}
    await engine.stop()
    assert history.states == [STARTING, READY, STOPPED]
    assert engine.status.restarts == 0
    assert not running(engine)
    assert not folder.exists()
    with pytest.raises(NotReady):
        await engine.client.chat(CHAT)


async def test_stop_lets_requests_in_flight_finish_and_refuses_new_ones(make: Engine) -> None:
    engine = make("waits")
    await engine.start()
    await until_ready(engine)
    chat = asyncio.create_task(engine.client.chat(CHAT))
    await asyncio.sleep(0.1)
    stop = asyncio.create_task(engine.stop())
    await asyncio.sleep(0.1)
    assert not stop.done()
    with pytest.raises(NotReady):
        await engine.client.chat(CHAT)
    engine.socket.with_name("answer").touch()
    assert await chat == {"choices": []}
    await stop


@pytest.mark.parametrize("turns", range(1, 8))
async def test_stop_at_any_moment_of_a_start_leaves_no_process(make: Engine, turns: int) -> None:
    engine = make("never ready")
    await engine.start()
    for _ in range(turns):
        await asyncio.sleep(0)
        time.sleep(0.1)  # noqa: ASYNC251  (the child gets on while the loop is held up)
    await engine.stop()
    await eventually(lambda: not running(engine))


async def test_stop_during_loading_waits_for_nothing(make: Engine, history: History) -> None:
    engine = make("never ready")
    await engine.start()
    await eventually(lambda: len(running(engine)) == 3)
    async with asyncio.timeout(60):
        await engine.stop()
    assert not running(engine)
    assert history.states == [STARTING, STOPPED]


async def test_a_start_that_takes_too_long_is_killed_and_tried_again(make: Engine, history: History) -> None:
    engine = make("never ready", start_timeout=0.5)
    await engine.start()
    await eventually(lambda: engine.status.restarts == 2)
    assert history.states[:4] == [STARTING, BACKOFF, STARTING, BACKOFF]
    assert engine.status.last_exit == "not ready after 0 s"


async def test_the_last_lines_are_said_again_where_it_ends_by_itself(
    make: Engine, monkeypatch: pytest.MonkeyPatch, log_lines: list[EventDict]
) -> None:
    engine = make(first_pause=60.0)
    lines = "import sys; print(*range(100), sep=chr(10)); sys.exit(3)"
    monkeypatch.setattr(engine, "_command", [sys.executable, "-c", lines])
    await engine.start()
    await eventually(lambda: engine.status.state is EngineState.BACKOFF)
    events = [line["event"] for line in log_lines]
    assert events[:100] == [str(number) for number in range(100)]
    assert events[100:130] == [str(number) for number in range(70, 100)]
    assert events[130] == "engine lost"


async def test_its_first_start_is_over_when_it_is_ready_or_has_failed(make: Engine) -> None:
    good, slow = make(), make("never ready", start_timeout=0.5)
    for engine in (good, slow):
        await engine.start()
        assert engine.status.state is not EngineState.READY
        async with asyncio.timeout(60):
            await engine.settled()
    assert good.status.state is EngineState.READY
    assert slow.status.state is EngineState.BACKOFF


def announced_pauses(log_lines: list[EventDict]) -> list[float]:
    return [line["restart_in_seconds"] for line in log_lines if line["event"] == "engine lost"]


async def test_pauses_between_restarts_double_up_to_a_limit(
    make: Engine, history: History, log_lines: list[EventDict]
) -> None:
    engine = make("fails", first_pause=0.2, longest_pause=0.3)
    await engine.start()
    await eventually(lambda: engine.status.restarts == 4, within=60)
    assert engine.status.last_exit == "exited with status 1: RuntimeError: no such model"
    began = [status.since for status in history if status.state is BACKOFF]
    ended = [status.since for status in history[1:] if status.state is STARTING]
    announced = announced_pauses(log_lines)[:4]
    assert announced == [0.2, 0.3, 0.3, 0.3]
    for begin, end, pause in zip(began[:4], ended[:4], announced, strict=True):
        assert end - begin >= pause


@pytest.mark.parametrize(("healthy_seconds", "pauses"), [(0.0, [0.1, 0.1, 0.1]), (600.0, [0.1, 0.2, 0.4])])
async def test_a_healthy_run_resets_the_pause(
    make: Engine, log_lines: list[EventDict], healthy_seconds: float, pauses: list[float]
) -> None:
    engine = make("unwell", first_pause=0.1, longest_pause=10.0, healthy_seconds=healthy_seconds)
    await engine.start()
    await eventually(lambda: engine.status.restarts == 3, within=60)
    assert announced_pauses(log_lines)[:3] == pytest.approx(pauses)


@pytest.mark.parametrize("fault", ["hangs", "unwell"])
async def test_a_hung_or_unhealthy_child_is_replaced(make: Engine, history: History, fault: str) -> None:
    engine = make(fault, health_timeout=0.3)
    await engine.start()
    await eventually(lambda: engine.status.restarts == 1)
    assert history.states[:4] == [STARTING, READY, BACKOFF, STARTING]
    assert engine.status.last_exit == "hung or unhealthy"


async def test_a_core_that_hangs_behind_a_healthy_server_is_replaced(make: Engine, history: History) -> None:
    engine = make("core hangs", health_timeout=2.0, read_timeout=0.3)
    await engine.start()
    await until_ready(engine)
    await asyncio.sleep(0.5)
    assert history.states == [STARTING, READY], "without a request there is nothing to notice"
    with pytest.raises(EngineTimedOut):
        await engine.client.chat(CHAT)
    await eventually(lambda: engine.status.restarts == 1)
    await until_ready(engine)


async def test_a_slow_answer_is_not_taken_for_a_hang(make: Engine, history: History) -> None:
    engine = make(health_timeout=60.0, read_timeout=1.0)
    await engine.start()
    await until_ready(engine)
    engine.client.chat_timed_out = True
    await eventually(lambda: not engine.client.chat_timed_out)
    assert history.states == [STARTING, READY]


async def test_a_killed_child_is_noticed_at_once(make: Engine) -> None:
    engine = make(health_interval=600.0, first_pause=60.0, longest_pause=60.0)
    await engine.start()
    await until_ready(engine)
    tree = running(engine)
    assert len(tree) == 3
    (pid,) = (pid for pid, line in tree.items() if FAKE.name in line and "guard.py" not in line)
    os.kill(pid, signal.SIGKILL)
    # Long before it would be asked for its health.
    await eventually(lambda: engine.status.state is BACKOFF)
    assert engine.status.last_exit == "ended by SIGKILL"
    assert not any(map(processes.alive, tree))


async def test_stop_right_after_the_guard_was_killed_leaves_no_process(make: Engine) -> None:
    engine = make()
    await engine.start()
    await until_ready(engine)
    tree = running(engine)
    (guard,) = (pid for pid, line in tree.items() if "guard.py" in line)
    os.kill(guard, signal.SIGKILL)
    await asyncio.sleep(0.05)
    await engine.stop()
    await eventually(lambda: not any(map(processes.alive, tree)))


async def test_a_killed_guard_ends_all_processes(make: Engine) -> None:
    engine = make(first_pause=60.0, longest_pause=60.0)
    await engine.start()
    await until_ready(engine)
    tree = running(engine)
    (guard,) = (pid for pid, line in tree.items() if "guard.py" in line)
    os.kill(guard, signal.SIGKILL)
    await eventually(lambda: engine.status.state is BACKOFF)
    await eventually(lambda: not any(map(processes.alive, tree)))


async def test_a_child_that_cannot_be_started_is_retried(
    make: Engine, monkeypatch: pytest.MonkeyPatch, log_lines: list[EventDict]
) -> None:
    engine = make()
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    await engine.start()
    await eventually(lambda: engine.status.restarts == 1)
    assert engine.status.last_exit is not None
    assert "FileNotFoundError" in engine.status.last_exit
    assert log_lines[0]["event"] == "engine supervision failed"
    monkeypatch.undo()
    await until_ready(engine)


SERVICE = f"""
import asyncio, sys
from smoothgate.engine import LocalEngine, VLLMOptions, local_engine
local_engine.vllm_command = lambda options, socket, **_: [sys.executable, {str(FAKE)!r}, str(socket), ""]
async def main():
    engine = LocalEngine(VLLMOptions(model="m", served_model_name="m"))
    await engine.start()
    while engine.status.state != "ready":
        await asyncio.sleep(0.01)
    print("all is ready", flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
"""


async def test_a_killed_service_ends_its_child(short_path: Path) -> None:
    service = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", SERVICE),
        env={**os.environ, "TMPDIR": str(short_path)},
        stdout=asyncio.subprocess.PIPE,
    )
    assert service.stdout is not None
    while b"all is ready" not in await service.stdout.readline():
        pass
    tree = processes.descendants(service.pid)
    assert len(tree) == 3
    service.kill()
    await service.wait()
    await eventually(lambda: not any(map(processes.alive, tree)))


async def test_a_temporary_folder_too_long_for_a_socket_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/" + "x" * 90)
    with pytest.raises(ValueError, match="TMPDIR"):
        LocalEngine(OPTIONS)

import asyncio
import signal
import sys
from types import SimpleNamespace

import pytest
from structlog.typing import EventDict

from smoothgate.engine.vllm_process import VLLMProcess
from tests.processes import alive, descendants
from tests.waiting import eventually

LINES = """
import sys
print("(APIServer pid=1) WARNING 11-22 10:08:20 [cpu.py:224] Mind the gap.")
print("x" * 3_000_000)
sys.stdout.buffer.write(b"\\xff\\xfe\\n")
print("after all that", file=sys.stderr)
print("api_server.py: error: unrecognized arguments")
print("(APIServer pid=1) ERROR 11-22 10:08:20 [core.py:1] torch.exc.InductorError: no compiler")
print("(APIServer pid=1) ERROR 11-22 10:08:20 [core.py:1] vllm.EngineDeadError: see above")
print("(APIServer pid=1) ERROR 11-22 10:08:20 [core.py:1] ^^^^^^")
raise SystemExit(1)
"""


@pytest.mark.asyncio
async def test_every_line_is_logged_and_the_last_error_is_the_reason(log_lines: list[EventDict]) -> None:
    process = await VLLMProcess.spawn([sys.executable, "-u", "-c", LINES], {})
    assert await process.wait() == "exited with status 1"
    await process.kill()
    assert process.last_error == "torch.exc.InductorError: no compiler"
    assert log_lines[0] == {
        "event": "Mind the gap.",
        "log_level": "warning",
        "process": "APIServer",
        "place": "cpu.py:224",
    }
    events = [line["event"] for line in log_lines]
    assert "after all that" in events
    assert "\ufffd\ufffd" in events


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("code", "how"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", "ended by SIGSEGV"),
        ("sys.exit(0)", "exited with status 0"),
        ("sys.exit(-1)", "exited with status 255"),
    ],
)
async def test_wait_says_how_the_process_ended(code: str, how: str) -> None:
    process = await VLLMProcess.spawn([sys.executable, "-c", f"import os, signal, sys; {code}"], {})
    assert await process.wait() == how
    await process.kill()


@pytest.mark.asyncio
async def test_a_process_that_has_got_the_number_of_one_that_ended_is_let_live() -> None:
    """The kernel gives numbers again."""
    process = await VLLMProcess.spawn([sys.executable, "-c", ""], {})
    await process.wait()
    stranger = await asyncio.create_subprocess_exec("sleep", "60", start_new_session=True)
    ended = process._guard
    process._guard = SimpleNamespace(  # type: ignore[assignment]
        pid=stranger.pid, returncode=0, stdin=None, wait=ended.wait
    )
    try:
        await process.kill()
        await asyncio.sleep(0.2)
        assert stranger.returncode is None
    finally:
        stranger.kill()
        assert await stranger.wait() == -signal.SIGKILL


@pytest.mark.asyncio
async def test_what_a_killed_guard_leaves_is_killed() -> None:
    code = "import subprocess, time; subprocess.Popen(['sleep', '600']); time.sleep(600)"
    process = await VLLMProcess.spawn([sys.executable, "-c", code], {})
    await eventually(lambda: len(descendants(process._guard.pid)) == 2, 20)
    left = descendants(process._guard.pid)
    process._guard.kill()
    await process.wait()
    await process.kill()
    await eventually(lambda: not any(alive(pid) for pid in left), 10)

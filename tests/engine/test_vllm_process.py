import sys

import pytest
from structlog.typing import EventDict

from smoothgate.engine.vllm_process import VLLMProcess

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

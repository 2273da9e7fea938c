import sys
from pathlib import Path
from typing import Any

import pytest

from smoothgate.engine.engine_client import KEEPALIVE_SECONDS
from smoothgate.engine.vllm_command import vllm_command, vllm_environment
from smoothgate.engine.vllm_log import parse_log_line
from smoothgate.engine.vllm_process import EngineProcess


def command(**changes: Any) -> list[str]:
    arguments: dict[str, Any] = {
        "served_model_name": "name",
        "dtype": "float32",
        "max_model_len": 64,
        "kv_cache_gib": 0.5,
        "drain_seconds": 20,
        "on_cpu": True,
    }
    return vllm_command("model", Path("/s/v.sock"), **(arguments | changes))


def test_the_command_takes_embeddings_and_no_pixels() -> None:
    line = " ".join(command(extra=["--tensor-parallel-size", "2"]))
    assert '--enable-mm-embeds --limit-mm-per-prompt {"image":0}' in line
    assert "--uds /s/v.sock" in line
    assert "--tensor-parallel-size 2" in line
    assert line.endswith("--max-model-len 64 --enforce-eager --kv-cache-memory-bytes 536870912")
    assert not {"--enforce-eager", "--kv-cache-memory-bytes"} & set(command(on_cpu=False))


@pytest.mark.parametrize(
    "argument",
    [
        "--limit-mm-per-prompt",
        "--limit-mm-per-prompt.image=2",
        "--limit_mm_per_prompt",
        "--limit-mm",
        "--host=0.0.0.0",
        "--config",
    ],
)
def test_what_the_service_sets_cannot_be_set_from_outside(argument: str) -> None:
    with pytest.raises(ValueError, match="cannot be set"):
        command(extra=[argument, "x"])


def test_the_child_sees_none_of_our_own_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SMOOTHGATE_SIGNING_KEY", "secret")
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "40")
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setenv("PYTHONPATH", "elsewhere")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    environment = vllm_environment(str(tmp_path), tmp_path, on_cpu=True)
    assert not {"SMOOTHGATE_SIGNING_KEY", "VLLM_CPU_KVCACHE_SPACE"} & set(environment)
    assert environment["HOME"] == "/home/someone"
    assert environment["PYTHONPATH"].endswith("child_site:elsewhere")
    assert float(environment["VLLM_HTTP_TIMEOUT_KEEP_ALIVE"]) > KEEPALIVE_SECONDS
    assert environment["TORCH_COMPILE_DISABLE"] == "1"
    assert environment["HF_HUB_OFFLINE"] == "1"
    hub = vllm_environment("someone/a-model", tmp_path, on_cpu=False)
    assert "HF_HUB_OFFLINE" not in hub
    assert "TORCH_COMPILE_DISABLE" not in hub


@pytest.mark.parametrize(
    ("line", "level", "text", "source"),
    [
        (
            "(APIServer pid=7) WARNING 11-22 10:08:20 [cpu.py:224] Triton is not installed.\n",
            "warning",
            "Triton is not installed.",
            {"process": "APIServer", "place": "cpu.py:224"},
        ),
        ("(EngineCore pid=7) INFO 11-22 10:08:06 [api_utils.py:347] \n", "info", "", None),
        ("(Worker pid=7) Traceback:", "info", "Traceback:", {"process": "Worker"}),
        ("ERROR:    Exception in ASGI application", "error", "Exception in ASGI application", {}),
        ("Loading:  0%\rLoading: 50%\rLoading: 100%\n", "info", "Loading: 100%", {}),
        ("(half a prefix", "info", "(half a prefix", {}),
    ],
)
def test_a_log_line_keeps_its_level(line: str, level: str, text: str, source: dict[str, str] | None) -> None:
    parsed = parse_log_line(line)
    assert parsed[:2] == (level, text)
    assert source is None or parsed[2] == source


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
async def test_every_line_is_logged_and_the_last_error_is_the_reason(log_lines: list[dict[str, Any]]) -> None:
    process = await EngineProcess.spawn([sys.executable, "-u", "-c", LINES], {})
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
async def test_the_end_is_named(code: str, how: str) -> None:
    process = await EngineProcess.spawn([sys.executable, "-c", f"import os, signal, sys; {code}"], {})
    assert await process.wait() == how
    await process.kill()

"""One run of vLLM's OpenAI server as a child process: how it is started, what it logs, how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import structlog

from smoothgate.tracing import TRACES_PATH

GUARD = Path(__file__).with_name("guard.py")
CHILD_SITE = Path(__file__).resolve().parent.parent / "compat" / "child_site"

# Arguments that an operator may not pass on, since the way of a request and its robustness hang on them.
RESERVED_ARGUMENTS = (
    "--config",
    "--model",
    "--uds",
    "--host",
    "--port",
    "--served-model-name",
    "--shutdown-timeout",
    "--limit-mm-per-prompt",
    "--enable-mm-embeds",
    "--no-enable-mm-embeds",
    "--enable-prompt-embeds",
    "--no-enable-prompt-embeds",
)

LONGEST_LINE = 1 << 20

log = structlog.get_logger("engine")


def vllm_command(
    model: str,
    socket: Path,
    *,
    served_model_name: str,
    dtype: str,
    max_model_len: int | None,
    kv_cache_gib: float,
    drain_seconds: float,
    tracing_url: str | None = None,
    media_limits: Mapping[str, int] | None = None,
    prompt_embeds: bool = False,
    on_cpu: bool,
    extra: Sequence[str] = (),
) -> list[str]:
    """The command line of vLLM: on a Unix socket, taking embeddings and no pixels.

    Args:
        model, socket, served_model_name, dtype, max_model_len, drain_seconds, tracing_url: see `LocalEngine`.
        media_limits, prompt_embeds: see `LocalEngine`.
        on_cpu: whether there is no GPU.
        extra: further arguments.

    Raises:
        ValueError: `extra` holds an argument that is not the operator's to choose.
    """
    for argument in extra:
        # vLLM takes underscores, dotted keys and unambiguous abbreviations too.
        name = re.split("[=.]", argument, maxsplit=1)[0].replace("_", "-")
        if name.startswith("--") and any(reserved.startswith(name) for reserved in RESERVED_ARGUMENTS):
            raise ValueError(f"{argument} cannot be set: the service sets it itself.")
    command = [sys.executable, "-P", "-m", "vllm.entrypoints.openai.api_server", *extra]
    command += ["--model", model, "--served-model-name", served_model_name, "--dtype", dtype]
    command += ["--uds", str(socket), "--disable-uvicorn-access-log"]
    limits = json.dumps(dict(media_limits or {"image": 0}), separators=(",", ":"))
    command += ["--enable-mm-embeds", "--limit-mm-per-prompt", limits]
    if prompt_embeds:
        command += ["--enable-prompt-embeds"]
    command += ["--shutdown-timeout", str(round(drain_seconds))]
    if tracing_url is not None:
        command += ["--otlp-traces-endpoint", tracing_url.rstrip("/") + TRACES_PATH]
    if max_model_len is not None:
        command += ["--max-model-len", str(max_model_len)]
    if on_cpu:
        command += ["--enforce-eager", "--kv-cache-memory-bytes", str(round(kv_cache_gib * 2**30))]
    return command


def vllm_environment(model: str, scratch: Path, *, on_cpu: bool) -> dict[str, str]:
    """The environment of vLLM: ours without our own settings, which hold secrets."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("SMOOTHGATE_")}
    # vLLM would take it before the argument that `vllm_command` gives.
    environment.pop("VLLM_CPU_KVCACHE_SPACE", None)
    path = [str(CHILD_SITE), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment |= {
        "PYTHONPATH": os.pathsep.join(path),
        "PYTHONUNBUFFERED": "1",
        "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
        "TMPDIR": str(scratch),
        "VLLM_NO_USAGE_STATS": "1",
        # Our client closes idle connections. vLLM's own 5 s may, after a stall, be over before its server has
        # read the request that waits in the socket.
        "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": "300",
        # Idle threads that spin would take the encoder's cores.
        "OMP_WAIT_POLICY": "PASSIVE",
    }
    if Path(model).exists():
        environment["HF_HUB_OFFLINE"] = "1"
    if on_cpu:
        # vLLM's samplers are compiled on first use, with the system's C++ compiler: half a minute within a
        # request that asks for log-probabilities, and the end of the engine where there is no compiler.
        environment["TORCH_COMPILE_DISABLE"] = "1"
    return environment


class EngineProcess:
    """A running child and its descendants. Make one with `spawn`.

    `last_error` is the last line of its log that names an error, or empty.
    """

    def __init__(self, guard: asyncio.subprocess.Process, output: int) -> None:
        self._guard = guard
        self.last_error = ""
        self._forwarding = asyncio.create_task(self._forward_log(output))

    @classmethod
    async def spawn(cls, command: Sequence[str], environment: dict[str, str]) -> EngineProcess:
        """Start `command` in a session of its own, so that a Ctrl-C on the terminal does not reach it.

        Raises:
            OSError: it cannot be started.
        """
        # asyncio's own pipe would keep `wait` from returning for as long as any descendant holds it open.
        output, theirs = os.pipe()
        try:
            guard = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", str(GUARD), *command),
                env=environment,
                stdin=asyncio.subprocess.PIPE,  # never written to: its end tells that the service has gone
                stdout=theirs,
                stderr=theirs,
                start_new_session=True,
            )
        except BaseException:
            os.close(output)
            raise
        finally:
            os.close(theirs)
        return cls(guard, output)

    async def wait(self) -> str:
        """Wait for the end, and say how it came."""
        status = await self._guard.wait()
        await asyncio.wait([self._forwarding], timeout=1.0)
        number = status - 128 if status > 128 else -status
        name = {member.value: member.name for member in signal.Signals}.get(number)
        return f"ended by {name}" if name else f"exited with status {status}"

    async def kill(self) -> None:
        """End the whole tree. Nothing runs any more on return; does nothing where that is so already."""
        if self._guard.stdin is not None:
            self._guard.stdin.close()
        ended = asyncio.ensure_future(self._guard.wait())
        await asyncio.wait([ended], timeout=10.0)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._guard.pid, signal.SIGKILL)
        await ended
        await asyncio.wait([self._forwarding], timeout=1.0)
        self._forwarding.cancel()

    async def _forward_log(self, output: int) -> None:
        lines = asyncio.StreamReader(limit=LONGEST_LINE)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(lines), os.fdopen(output, "rb", buffering=0)
        )
        with contextlib.closing(transport):
            while await self._forward_line(lines):
                pass

    async def _forward_line(self, lines: asyncio.StreamReader) -> bool:
        try:
            line = await lines.readline()
        except ValueError:  # longer than the limit; asyncio has dropped it
            return True
        if not line:
            return False
        level, text, source = parse_log_line(line.decode(errors="replace"))
        if text:
            if _ERROR.match(text) and not _POINTS_ABOVE.search(text):
                self.last_error = text[:300]
            # Its hundred routes, of which it will be asked three, are not worth a line each.
            getattr(log, "debug" if text.startswith("Route: ") else level)(text, **source)
        return True


_VLLM_LINE = re.compile(
    r"\((?P<process>\S+) pid=\d+\) (?:(?P<level>[A-Z]+) \S+ \S+ \[(?P<place>[^\]]+)\] ?)?(?P<text>.*)"
)
_UVICORN_LINE = re.compile(r"(?P<level>DEBUG|INFO|WARNING|ERROR|CRITICAL): +(?P<text>.*)")
_ERROR = re.compile(r"[\w.]+(Error|Exception): |\S+: error: ")
_POINTS_ABOVE = re.compile("EngineDeadError|See root cause above")
_LEVELS = {"DEBUG": "debug", "INFO": "info", "WARNING": "warning", "ERROR": "error", "CRITICAL": "error"}


def parse_log_line(line: str) -> tuple[str, str, dict[str, str]]:
    """Take a line of vLLM's log apart: level (`info` where it names none), text, and where it came from."""
    line = line.rstrip().rsplit("\r", 1)[-1]  # of a progress bar only the last state
    if match := _VLLM_LINE.fullmatch(line):
        source = {key: match[key] for key in ("process", "place") if match[key]}
        return _LEVELS.get(match["level"], "info"), match["text"].strip(), source
    if match := _UVICORN_LINE.fullmatch(line):
        return _LEVELS[match["level"]], match["text"].strip(), {}
    return "info", line.strip(), {}

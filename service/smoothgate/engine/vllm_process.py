"""One run of vLLM's OpenAI server as a child process: how it starts, what it logs, how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from smoothgate.engine.vllm_log import names_cause, parse_log_line
from smoothgate.logs import VLLM, get_logger

GUARD = Path(__file__).with_name("guard.py")
LONGEST_LINE = 1 << 20

#: Lines of the log that are shown again where vLLM ends by itself.
LAST_LINES = 30

log = get_logger(VLLM)


class VLLMProcess:
    """A running child and its descendants, made by `spawn`.

    Attributes:
        last_error: the last line of its log that names an error, or empty.
        last_lines: its last lines.
    """

    def __init__(self, guard: asyncio.subprocess.Process, output: int) -> None:
        self._guard = guard
        self.last_error = ""
        self.last_lines: deque[str] = deque(maxlen=LAST_LINES)
        self._forwarding = asyncio.create_task(self._forward_log(output))

    @classmethod
    async def spawn(cls, command: Sequence[str], environment: dict[str, str]) -> VLLMProcess:
        """Start `command` in a session of its own, so that a Ctrl-C on the terminal does not reach it.

        Raises:
            OSError: the command cannot be started.
        """
        # With asyncio's own pipe, `wait` would not return while any descendant holds the pipe open.
        output, child_output = os.pipe()
        try:
            guard = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", str(GUARD), *command),
                env=environment,
                stdin=asyncio.subprocess.PIPE,  # never written to; it closes when the service ends
                stdout=child_output,
                stderr=child_output,
                start_new_session=True,
            )
        except BaseException:
            os.close(output)
            raise
        finally:
            os.close(child_output)
        return cls(guard, output)

    async def wait(self) -> str:
        """Wait until the child ends. Returns how it ended."""
        status = await self._guard.wait()
        await asyncio.wait([self._forwarding], timeout=1.0)
        number = status - 128 if status > 128 else -status
        name = {member.value: member.name for member in signal.Signals}.get(number)
        return f"ended by {name}" if name else f"exited with status {status}"

    async def kill(self) -> None:
        """End the whole tree of processes. None is left on return. Does nothing if the tree has ended."""
        if self._guard.stdin is not None:
            self._guard.stdin.close()
        ended = asyncio.ensure_future(self._guard.wait())
        await asyncio.wait([ended], timeout=10.0)
        if self._guard.returncode is None or not _exists(self._guard.pid):
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
        except ValueError:  # the line is longer than the limit, and asyncio has dropped it
            return True
        if not line:
            return False
        level, text, source = parse_log_line(line.decode(errors="replace"))
        if text:
            self.last_lines.append(text)
            if names_cause(text):
                self.last_error = text[:300]
            # vLLM lists its hundred routes at its start. Only three of them are used.
            getattr(log, "debug" if text.startswith("Route: ") else level)(text, **source)
        return True


def _exists(pid: int) -> bool:
    """Whether a process has this number.

    The number of a process that was reaped is not given again while it is that of a group. So where a process
    has it, the group that it leads is somebody else's.
    """
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True

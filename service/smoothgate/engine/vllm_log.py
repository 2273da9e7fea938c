"""The lines of vLLM's log: their level, their text, and whether they name an error."""

from __future__ import annotations

import re

_VLLM_LINE = re.compile(
    r"\((?P<process>\S+) pid=\d+\) (?:(?P<level>[A-Z]+) \S+ \S+ \[(?P<place>[^\]]+)\] ?)?(?P<text>.*)"
)
_UVICORN_LINE = re.compile(r"(?P<level>DEBUG|INFO|WARNING|ERROR|CRITICAL): +(?P<text>.*)")
_ERROR = re.compile(r"[\w.]+(Error|Exception): |\S+: error: ")
_POINTS_ABOVE = re.compile("EngineDeadError|See root cause above")
_LEVELS = {"DEBUG": "debug", "INFO": "info", "WARNING": "warning", "ERROR": "error", "CRITICAL": "error"}


def parse_log_line(line: str) -> tuple[str, str, dict[str, str]]:
    """Split a line of vLLM's log into its level, its text and its source (`process`, `place`).

    A line that names no level has `info`.
    """
    line = line.rstrip().rsplit("\r", 1)[-1]  # the last state of a progress bar
    if match := _VLLM_LINE.fullmatch(line):
        source = {key: match[key] for key in ("process", "place") if match[key]}
        return _LEVELS.get(match["level"], "info"), match["text"].strip(), source
    if match := _UVICORN_LINE.fullmatch(line):
        return _LEVELS[match["level"]], match["text"].strip(), {}
    return "info", line.strip(), {}


def names_cause(text: str) -> bool:
    """Whether a log text names the error that ended vLLM, and does not only point to an earlier line."""
    return _ERROR.match(text) is not None and _POINTS_ABOVE.search(text) is None

"""Structured logs: one line of JSON per event, or one readable line per event on a terminal.

In a process that is not ours (the library) nothing is configured: events are texts for the standard library's
loggers `smoothgate.*`, and what becomes of them is that process's business.
"""

from __future__ import annotations

import logging
import re
import sys
import tempfile
import threading
import warnings
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TextIO

import structlog

Format = Literal["auto", "json", "console"]

#: The logger of the lines of our own vLLM.
VLLM = "vllm"
#: The logger of its last lines, again, where it ended by itself: on a terminal alone.
VLLM_LAST = "vllm-last"

_OURS = "smoothgate."
# Visible characters of a line on a terminal.
_LONGEST = 200
# Libraries with handlers of their own, which would write lines of another form.
_WITH_HANDLERS = ("transformers", "huggingface_hub")
_COLOUR = re.compile(r"(\x1b\[[0-9;]*m)")


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """A logger of this package. The standard library knows it as `smoothgate.<name>`."""
    logger: structlog.stdlib.BoundLogger = structlog.wrap_logger(
        logging.getLogger(_OURS + name), processors=PROCESSORS, wrapper_class=structlog.stdlib.BoundLogger
    )
    return logger


def for_terminal(log_format: Format) -> bool:
    """Whether the log is for a person's eyes: `auto` is `console` on a terminal and `json` elsewhere."""
    return log_format == "console" or (log_format == "auto" and sys.stderr.isatty())


def configure(log_format: Format, level: str) -> None:
    """Log our events as lines, and the standard library's records and warnings (uvicorn's too) the same way.

    Args:
        log_format: see `for_terminal`.
        level: the lowest level that is logged.
    """
    console = for_terminal(log_format)
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        _add_name,
        structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False)
        if console
        else structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: list[structlog.typing.Processor] = (
        # Values of variables are left out: they may be secrets or the pixels of a batch.
        [
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(),
                exception_formatter=structlog.dev.RichTracebackFormatter(show_locals=False),
            ),
            _cut,
        ]
        if console
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    PROCESSORS[:] = [
        structlog.stdlib.filter_by_level,
        *shared,
        structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
    ]
    handler = _ToStderr()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer],
        )
    )
    if console and level != "debug":
        handler.addFilter(_is_for_a_person)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    logging.getLogger(_OURS + VLLM_LAST).disabled = not console
    for noisy in ("httpx", "httpx2", "httpcore", "httpcore2"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    if level != "debug":
        # It says that it runs while parts of the service still start.
        logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    warnings.showwarning = _log_warning
    if not console:
        sys.excepthook = _log_uncaught
        threading.excepthook = _log_uncaught_in_thread


def adopt_libraries() -> None:
    """Log what libraries log that have handlers of their own, once they are imported."""
    for name in _WITH_HANDLERS:
        logger = logging.getLogger(name)
        logger.handlers = []
        logger.propagate = True


def keep_engine_log() -> Path:
    """Write every line of our own vLLM to a new file from now on, and return its path."""
    with tempfile.NamedTemporaryFile(prefix="smoothgate-vllm-", suffix=".log", delete=False) as file:
        path = Path(file.name)
    handler = logging.FileHandler(path)
    plain: list[structlog.typing.Processor] = [
        structlog.stdlib.ProcessorFormatter.remove_processors_meta,
        _plain,
    ]
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(processors=plain))
    logging.getLogger(_OURS + VLLM).addHandler(handler)
    return path


class _ToStderr(logging.StreamHandler[TextIO]):
    """Writes to what is standard error now: a spinner puts a stream there that keeps it below the lines."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return sys.stderr


def _is_for_a_person(record: logging.LogRecord) -> bool:
    return record.name != _OURS + VLLM or record.levelno >= logging.WARNING


def _cut(logger: Any, method: str, text: Any) -> str:
    """A rendered event whose lines are cut where they are too long."""
    return "\n".join(map(_cut_line, str(text).split("\n")))


def _cut_line(line: str) -> str:
    if len(_COLOUR.sub("", line)) <= _LONGEST:
        return line
    kept, room, colours = [], _LONGEST - 1, False
    for part in _COLOUR.split(line):
        if _COLOUR.fullmatch(part):
            colours = True
            kept.append(part)
        else:
            kept.append(part[:room])
            room -= len(kept[-1])
            if not room:
                break
    return "".join(kept) + ("\x1b[0m" if colours else "") + "…"


def _add_name(logger: Any, method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    named = structlog.stdlib.add_logger_name(logger, method, event)
    named["logger"] = named["logger"].removeprefix(_OURS)
    return named


def _as_text(
    logger: Any, method: str, event: structlog.typing.EventDict
) -> tuple[tuple[str], dict[str, Any]]:
    """Arguments of a standard logger: the event with its values behind it."""
    error = {"exc_info": event.pop("exc_info")} if "exc_info" in event else {}
    text = str(event.pop("event"))
    values = ", ".join(f"{name}={value!r}" for name, value in event.items())
    return (f"{text} ({values})" if values else text,), error


#: What an event of ours goes through. `configure` changes it for the whole process.
PROCESSORS: list[structlog.typing.Processor] = [structlog.stdlib.filter_by_level, _as_text]

# Nothing is written in a process that has no handlers of its own.
logging.getLogger(_OURS.rstrip(".")).addHandler(logging.NullHandler())
logging.getLogger(_OURS + VLLM_LAST).disabled = True


def _plain(logger: Any, method: str, event: structlog.typing.EventDict) -> str:
    return f"{event['timestamp']} {event['level']:<7} {event['event']}"


def _log_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    text = " ".join(str(message).split())
    get_logger("warnings").warning(text, kind=category.__name__, place=f"{filename}:{lineno}")


def _log_uncaught(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None, thread: str | None = None
) -> None:
    if issubclass(kind, KeyboardInterrupt):
        return
    where = {} if thread is None else {"thread": thread}
    get_logger("uncaught").critical("uncaught error", exc_info=(kind, error, trace), **where)


def _log_uncaught_in_thread(failed: threading.ExceptHookArgs) -> None:
    if failed.exc_value is not None:
        name = None if failed.thread is None else failed.thread.name
        _log_uncaught(failed.exc_type, failed.exc_value, failed.exc_traceback, name)

"""`smoothgate serve`, `settings`, `version`."""

from __future__ import annotations

import os
from collections.abc import Iterable
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from smoothgate import __version__
from smoothgate.cli.common import errors, failures
from smoothgate.errors import SmoothgateError
from smoothgate.extras import require

if TYPE_CHECKING:
    from smoothgate.logs import Format as LogFormat
    from smoothgate.settings import Settings


class Format(StrEnum):
    """What `settings` prints."""

    ENV = "env"
    MARKDOWN = "markdown"


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on (SMOOTHGATE_HOST).")] = None,
    port: Annotated[int | None, typer.Option(help="TCP port to listen on (SMOOTHGATE_PORT).")] = None,
    model: Annotated[
        str | None, typer.Option(help="Checkpoint: a folder or a Hugging Face id (SMOOTHGATE_MODEL).")
    ] = None,
    psm: Annotated[
        Path | None,
        typer.Option(help="Folder that `psm train` or `psm calibrate` wrote for it (SMOOTHGATE_PSM)."),
    ] = None,
    sigma: Annotated[
        float | None, typer.Option(help="Standard deviation of the noise (SMOOTHGATE_SIGMA).")
    ] = None,
) -> None:
    """Start the service. Settings come from these options, the environment and `.env`, in this order.

    `smoothgate settings` lists them all.
    """
    options = {"host": host, "port": port, "model": model, "psm": psm, "sigma": sigma}
    # torch reads it when it is first imported. Threads that spin while they wait would take vLLM's cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    with failures():
        require("serve", "`smoothgate serve`")
    from smoothgate import logs

    logs.configure(log_format(), "info")
    settings = read_settings({name: value for name, value in options.items() if value is not None})
    logs.configure(settings.log_format, settings.log_level)
    try:
        started = _run(settings)
    except SmoothgateError as error:
        refuse([error.message], settings.log_format)
        raise typer.Exit(1) from None
    if not started:
        raise typer.Exit(1)


def _run(settings: Settings) -> bool:
    own_engine = settings.engine == "vllm" and settings.engine_url is None
    if own_engine and find_spec("vllm") is None:
        raise SmoothgateError(
            "Without SMOOTHGATE_ENGINE_URL, Smoothgate starts a vLLM of its own, and none is installed: "
            "pip install 'smoothgate[cpu]' or 'smoothgate[cuda]'"
        )
    from smoothgate import logs
    from smoothgate.server import serve as run

    begin_log()
    console = errors if logs.for_terminal(settings.log_format) else None
    if console is not None and own_engine:
        logs.get_logger("settings").info("vLLM's own log", file=str(logs.keep_engine_log()))
    return run(settings, console)


def begin_log() -> None:
    """Have libraries log as we do, without progress bars of theirs; name variables that are no settings."""
    from smoothgate import logs
    from smoothgate.cli.setting_errors import unknown_variables
    from smoothgate.vision import hide_progress

    logs.adopt_libraries()
    hide_progress()
    log = logs.get_logger("settings")
    for sentence in unknown_variables():
        log.warning(sentence)


def settings(
    form: Annotated[
        Format, typer.Option("--format", help="`env`: .env.example. `markdown`: docs/settings.md.")
    ] = Format.MARKDOWN,
) -> None:
    """Print every setting with its meaning."""
    with failures():
        require("serve", "`smoothgate settings`")
    from smoothgate.cli import settings_documents

    env = form is Format.ENV
    typer.echo(settings_documents.env_example() if env else settings_documents.markdown(), nl=False)


def version() -> None:
    """Print the version."""
    typer.echo(__version__)


def print_version(wanted: bool) -> None:
    """Print the version and end, where `--version` is given."""
    if wanted:
        version()
        raise typer.Exit


def read_settings(options: dict[str, Any]) -> Settings:
    """The settings, with these options in front of the environment; ends the process where they are wrong."""
    from pydantic import ValidationError

    from smoothgate.cli import setting_errors
    from smoothgate.settings import Settings

    try:
        return Settings(**options)
    except ValidationError as error:
        refuse(setting_errors.sentences(error, options), log_format())
        raise typer.Exit(2) from None


def log_format() -> LogFormat:
    """As the environment says, before the settings were read."""
    given = os.environ.get("SMOOTHGATE_LOG_FORMAT")
    formats: tuple[LogFormat, ...] = ("json", "console")
    return next((each for each in formats if each == given), "auto")


def refuse(reasons: Iterable[str], log_format: LogFormat) -> None:
    """Say why the service does not start: in red on a terminal, else as lines of the log."""
    from smoothgate import logs

    for reason in reasons:
        if logs.for_terminal(log_format):
            errors.print(reason, style="red", markup=False, highlight=False, soft_wrap=True)
        else:
            logs.get_logger("serving").error("not started", reason=reason)

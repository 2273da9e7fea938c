"""`smoothgate serve`, `settings`, `version`."""

from __future__ import annotations

import os
from enum import StrEnum
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated

import typer

from smoothgate import __version__
from smoothgate.cli.common import console, errors, failures
from smoothgate.errors import SmoothgateError
from smoothgate.extras import require

if TYPE_CHECKING:
    from smoothgate.settings import Settings


class Format(StrEnum):
    """What `settings` prints."""

    ENV = "env"
    MARKDOWN = "markdown"


def serve() -> None:
    """Start the service. Its settings come from the environment and `.env` (`smoothgate settings`)."""
    # torch reads it when it is first imported. Threads that spin while they wait would take vLLM's cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    with failures():
        require("serve", "`smoothgate serve`")
        settings = _settings()
        if settings.engine_url is None and find_spec("vllm") is None:
            raise SmoothgateError(
                "Without SMOOTHGATE_ENGINE_URL, Smoothgate starts a vLLM of its own, and none is installed: "
                "pip install 'smoothgate[cpu]' or 'smoothgate[cuda]'"
            )
        from smoothgate import logs
        from smoothgate.server import serve as run

        logs.configure(settings.log_format, settings.log_level)
        if not run(settings, console):
            raise typer.Exit(1)


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


def _settings() -> Settings:
    from pydantic import ValidationError

    from smoothgate.settings import Settings

    try:
        return Settings()
    except ValidationError as error:
        for finding in error.errors():
            where = ".".join(str(part) for part in finding["loc"])
            errors.print(f"Setting {where or '(several)'}: {finding['msg']}", style="red")
        raise typer.Exit(2) from None

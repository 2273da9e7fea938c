"""`smoothgate serve`, `settings`, `version`."""

from __future__ import annotations

import os
from enum import StrEnum
from typing import Annotated

import typer
from pydantic import ValidationError

from smoothgate import __version__, logs
from smoothgate.cli import settings_documents
from smoothgate.cli.common import console, errors, failures
from smoothgate.settings import Settings


class Format(StrEnum):
    """What `settings` prints."""

    ENV = "env"
    MARKDOWN = "markdown"


def serve() -> None:
    """Start the service; settings come from the environment and `.env` (`smoothgate settings`)."""
    # Read when torch is first imported: threads that wait by spinning would take vLLM's cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from smoothgate.server import serve as run

    settings = _settings()
    logs.configure(settings.log_format, settings.log_level)
    with failures():
        if not run(settings, console):
            raise typer.Exit(1)


def settings(
    form: Annotated[
        Format, typer.Option("--format", help="As .env.example or docs/settings.md.")
    ] = Format.MARKDOWN,
) -> None:
    """Print every setting with its meaning."""
    env = form is Format.ENV
    typer.echo(settings_documents.env_example() if env else settings_documents.markdown(), nl=False)


def version() -> None:
    """Print the version."""
    typer.echo(__version__)


def _settings() -> Settings:
    try:
        return Settings()
    except ValidationError as error:
        for finding in error.errors():
            where = ".".join(str(part) for part in finding["loc"])
            errors.print(f"Setting {where or '(several)'}: {finding['msg']}", style="red")
        raise typer.Exit(2) from None

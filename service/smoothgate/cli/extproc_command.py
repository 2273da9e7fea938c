"""`smoothgate extproc`."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from smoothgate.cli import serve_command
from smoothgate.cli.common import failures
from smoothgate.errors import SmoothgateError
from smoothgate.extras import require

# Of settings that a filter has no use for, since it asks no vLLM and serves no page.
_UNUSED = {"engine": "none", "engine_url": None, "playground": None, "laboratory": None}


def extproc(
    host: Annotated[str | None, typer.Option(help="Address to listen on (SMOOTHGATE_HOST).")] = None,
    port: Annotated[int | None, typer.Option(help="TCP port to listen on (SMOOTHGATE_PORT).")] = None,
) -> None:
    """Start a filter for Envoy: an External Processing server that replaces the pictures of chats.

    Settings are those of `smoothgate serve`. Those of vLLM and of the page are not used.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    with failures():
        require("extproc", "`smoothgate extproc`")
    from smoothgate import logs
    from smoothgate.extproc.filter_server import serve

    logs.configure(serve_command.log_format(), "info")
    options = {name: value for name, value in (("host", host), ("port", port)) if value is not None}
    settings = serve_command.read_settings(options | _UNUSED)
    logs.configure(settings.log_format, settings.log_level)
    serve_command.begin_log()
    try:
        serve(settings)
    except SmoothgateError as error:
        serve_command.refuse([error.message], settings.log_format)
        raise typer.Exit(1) from None

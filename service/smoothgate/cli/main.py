"""The app of the command-line tool `smoothgate`, with the commands of plugins.

The modules of commands import little: a command imports what it needs when it runs.
"""

from __future__ import annotations

from typing import Annotated

import typer

from smoothgate.cli import (
    account_commands,
    calibrate_command,
    certificate_commands,
    certify_command,
    extproc_command,
    plugins,
    serve_command,
)
from smoothgate.cli.common import Lists

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)
psm = typer.Typer(no_args_is_help=True, help="Purifier and smoothness mapper of a model.")


@app.callback()
def main(
    version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=serve_command.print_version, help="Print the version."
        ),
    ] = False,
) -> None:
    """Certified visual robustness in front of vLLM."""


app.command()(serve_command.serve)
app.command()(extproc_command.extproc)
app.command()(serve_command.settings)
app.command()(serve_command.version)
app.command()(certify_command.certify)
app.command()(certificate_commands.verify)
app.command()(certificate_commands.digest)
psm.command(cls=Lists)(calibrate_command.calibrate)
app.add_typer(psm, name="psm")
app.add_typer(certificate_commands.keys, name="keys")
app.add_typer(account_commands.app, name="accounts")
plugins.add_plugins({"": app, "psm": psm})

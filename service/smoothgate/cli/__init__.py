"""The command-line tool `smoothgate`."""

from __future__ import annotations

import typer

from smoothgate.compat import torch_extensions

torch_extensions.install()

from smoothgate.cli import account_commands, certificate_commands, serve_command  # noqa: E402
from smoothgate_lab.cli import bench_commands, demo_commands, evaluate_command, psm_commands  # noqa: E402

app = typer.Typer(
    no_args_is_help=True, pretty_exceptions_enable=False, help="Certified visual robustness in front of vLLM."
)
app.command()(serve_command.serve)
app.command()(serve_command.settings)
app.command()(serve_command.version)
app.command("verify")(certificate_commands.verify)
app.command("evaluate")(evaluate_command.evaluate)
app.add_typer(demo_commands.app, name="demo")
app.add_typer(psm_commands.app, name="psm")
app.add_typer(bench_commands.app, name="bench")
app.add_typer(certificate_commands.keys, name="keys")
app.add_typer(account_commands.app, name="accounts")

"""The command-line tool `smoothgate`."""

from __future__ import annotations

import typer

from service.compat import torch_extensions

torch_extensions.install()

from service.cli import accounts, bench, certificates, demo, evaluate, psm, serving  # noqa: E402

app = typer.Typer(
    no_args_is_help=True, pretty_exceptions_enable=False, help="Certified visual robustness in front of vLLM."
)
app.command()(serving.serve)
app.command()(serving.settings)
app.command()(serving.version)
app.command("verify")(certificates.verify)
app.command("evaluate")(evaluate.evaluate)
app.add_typer(demo.app, name="demo")
app.add_typer(psm.app, name="psm")
app.add_typer(bench.app, name="bench")
app.add_typer(certificates.keys, name="keys")
app.add_typer(accounts.app, name="accounts")

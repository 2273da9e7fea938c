"""`smoothgate accounts`: API keys of clients, kept as hashes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from smoothgate.cli.common import console, failures
from smoothgate.errors import MalformedRequest

app = typer.Typer(no_args_is_help=True, help="API keys of clients, kept as hashes with their limits.")

File = Annotated[Path, typer.Option("--file", help="File of the accounts, as in SMOOTHGATE_ACCOUNTS.")]
_FILE = Path("accounts.json")


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="Name of the client, for the logs.")],
    file: File = _FILE,
    requests_per_minute: Annotated[int | None, typer.Option(min=1, help="Left out: no limit.")] = None,
    samples_per_minute: Annotated[
        int | None, typer.Option(min=1, help="Noisy forwards. Left out: no limit.")
    ] = None,
    tokens_per_minute: Annotated[
        int | None, typer.Option(min=1, help="Of prompts and answers. Left out: as many as it likes.")
    ] = None,
    concurrent_requests: Annotated[
        int | None, typer.Option(min=1, help="Left out: as many as the service takes.")
    ] = None,
) -> None:
    """Make a key and print it; it cannot be shown again. A second key of a client needs another name."""
    from smoothgate.gate import accounts

    with failures():
        known = accounts.load(file) if file.exists() else []
        if any(account.name == name for account in known):
            raise MalformedRequest(f"{file} has an account {name} already.")
        try:
            account, key = accounts.new(
                name,
                requests_per_minute=requests_per_minute,
                samples_per_minute=samples_per_minute,
                tokens_per_minute=tokens_per_minute,
                concurrent_requests=concurrent_requests,
            )
        except ValueError as error:
            raise MalformedRequest(
                "A name is up to 64 letters, digits, dots, dashes and underscores."
            ) from error
        accounts.save(file, [*known, account])
    typer.echo(key)


@app.command()
def remove(name: Annotated[str, typer.Argument(help="Name of the account.")], file: File = _FILE) -> None:
    """Remove an account; a running service refuses its key within a second."""
    from smoothgate.gate import accounts

    with failures():
        known = accounts.load(file)
        left = [account for account in known if account.name != name]
        if len(left) == len(known):
            raise MalformedRequest(f"{file} has no account {name}.")
        accounts.save(file, left)


@app.command("list")
def show(file: File = _FILE) -> None:
    """List the accounts of a file and their limits."""
    from smoothgate.gate import accounts

    with failures():
        known = accounts.load(file)
    table = Table("name", "requests per minute", "samples per minute", "tokens per minute", "at a time")
    for account in known:
        limits = (
            account.requests_per_minute,
            account.samples_per_minute,
            account.tokens_per_minute,
            account.concurrent_requests,
        )
        table.add_row(account.name, *("-" if limit is None else str(limit) for limit in limits))
    console.print(table)

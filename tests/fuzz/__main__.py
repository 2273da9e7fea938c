"""`python -m tests.fuzz`: thousands of mutated requests, and what came of them.

Exits with 1 where a check fails.
"""

import asyncio
import json
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from smoothgate.progress import progress
from tests.fuzz.request import Json
from tests.fuzz.run import MOST_GROWTH, MOST_WAIT, run
from tests.fuzz.served import service

console = Console()


def main(
    requests: Annotated[int, typer.Option(min=1, help="How many.")] = 20_000,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 1,
    clients: Annotated[int, typer.Option(min=1, help="At a time.")] = 8,
    url: Annotated[
        str | None,
        typer.Option(
            help="Of a service of the demo model that runs; left out: one is started, and its memory read."
        ),
    ] = None,
    log: Annotated[
        Path | None, typer.Option(help="Keep the log of the service that is started there.")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the figures there.")] = None,
) -> None:
    """Send mutated requests to a service, and check every answer."""
    with (
        service(log) if url is None else nullcontext((url, None)) as (target, pid),
        progress(console=console) as bar,
    ):
        task = bar.add_task("requests", total=requests)
        figures = asyncio.run(
            run(
                target,
                requests,
                seed,
                clients=clients,
                pid=pid,
                step=lambda done: bar.update(task, completed=done),
            )
        )
    _show(figures)
    if json_file is not None:
        json_file.write_text(json.dumps(figures, indent=2) + "\n")
    sys.exit(not figures["passed"])


def _show(figures: Json) -> None:
    statuses = sorted({status for found in figures["statuses"].values() for status in found})
    table = Table(Column("source", no_wrap=True), *statuses, "all", title="Requests by source and status")
    for source, found in figures["statuses"].items():
        table.add_row(source, *(str(found.get(status, "")) for status in statuses), str(sum(found.values())))
    console.print(table)
    for failure in figures["failures"]:
        console.print(Text(f"{failure['problem']} ({failure['count']} times; {failure['what']})", "bold red"))
        console.print(Text(f"  {failure['shown']}\n  {failure['status']} {failure['body']}\n"))
    rest = Table("quantity", "value", title="The service", show_header=False)
    rest.add_row(
        "requests", f"{figures['requests']} in {figures['seconds']:.0f} s, {figures['per_second']:.1f} / s"
    )
    for part, measured in (figures["memory"] or {}).items():
        rest.add_row(
            f"memory of the {part}",
            f"{measured['start'] / 2**20:.0f} MiB, in the end {measured['end'] / 2**20:.0f} MiB: "
            f"{measured['growth']:+.1%} (at most {MOST_GROWTH:.0%})",
        )
    for name, most in MOST_WAIT.items():
        waited = figures["bystander"][name]
        rest.add_row(f"longest wait of a bystander: {name}", f"{waited:.2f} s (at most {most:g} s)")
    rest.add_row("bystander refused", str(len(figures["bystander"]["refused"])))
    rest.add_row("restarts of the engine", str(figures["restarts"]))
    rest.add_row("ready, and right about the sample", "yes" if figures["well"] else "no")
    rest.add_row("kinds of failure", str(len(figures["failures"])))
    rest.add_row("passed", "yes" if figures["passed"] else "no")
    console.print(rest)


typer.run(main)

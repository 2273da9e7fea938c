"""`python -m tests.fuzz`: thousands of mutated requests, and what came of them.

Exits with 1 where a check fails.
"""

import asyncio
import json
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress, TaskID
from rich.table import Column, Table
from rich.text import Text

from smoothgate.progress import progress
from smoothgate_lab.evaluation.running_service import Running
from tests.fuzz.request import Json
from tests.fuzz.run import MOST_GROWTH, MOST_WAIT, SEVEN, run
from tests.fuzz.served import demo, free_sizes

console = Console()


# Of the requests of a run, those to the service whose canvases have free sizes.
_FREE_SIZES_SHARE = 0.4


def main(
    requests: Annotated[int, typer.Option(min=1, help="How many.")] = 20_000,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 1,
    clients: Annotated[int, typer.Option(min=1, help="At a time.")] = 8,
    url: Annotated[
        str | None,
        typer.Option(
            help="Of a service of the demo model that runs; left out: one is started, and after it one whose "
            "canvases have free sizes, and their memory read."
        ),
    ] = None,
    logs: Annotated[
        Path | None, typer.Option(help="Keep the logs of the services that are started in this folder.")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the figures there.")] = None,
) -> None:
    """Send mutated requests to services, and check every answer."""
    found: dict[str, Json] = {}
    with tempfile.TemporaryDirectory(prefix="smoothgate-fuzz-") as name:
        folder = logs or Path(name)
        folder.mkdir(parents=True, exist_ok=True)

        def sent(what: str, count: int, target: Running | str, answer: str | None) -> None:
            address, pid = (target, None) if isinstance(target, str) else (target.url, target.pid)
            with progress(console=console) as bar:
                task = bar.add_task(what, total=count)
                step = partial(_advance, bar, task)
                found[what] = asyncio.run(
                    run(address, count, seed, clients=clients, pid=pid, answer=answer, step=step)
                )
            _show(what, found[what])

        if url is not None:
            sent("the service", requests, url, SEVEN)
        else:
            free = round(_FREE_SIZES_SHARE * requests)
            with demo(folder / "demo.log") as service:
                sent("the demo model", requests - free, service, SEVEN)
            with free_sizes(folder / "free-sizes.log") as service:
                sent("a model of free sizes", free, service, None)
    if json_file is not None:
        json_file.write_text(json.dumps(found, indent=2) + "\n")
    sys.exit(not all(figures["passed"] for figures in found.values()))


def _advance(bar: Progress, task: TaskID, done: int) -> None:
    bar.update(task, completed=done)


def _show(what: str, figures: Json) -> None:
    statuses = sorted({status for found in figures["statuses"].values() for status in found})
    table = Table(
        Column("source", no_wrap=True), *statuses, "all", title=f"Requests to {what} by source and status"
    )
    for source, found in figures["statuses"].items():
        table.add_row(source, *(str(found.get(status, "")) for status in statuses), str(sum(found.values())))
    console.print(table)
    routes = Table("route", "all", "2xx", title="By route")
    for route, found in figures["routes"].items():
        good = sum(number for status, number in found.items() if status.startswith("2"))
        routes.add_row(route, str(sum(found.values())), str(good))
    console.print(routes)
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
    rest.add_row("ready, and right about the sample where that is known", "yes" if figures["well"] else "no")
    rest.add_row("kinds of failure", str(len(figures["failures"])))
    rest.add_row("passed", "yes" if figures["passed"] else "no")
    console.print(rest)


typer.run(main)

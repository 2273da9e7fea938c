"""`smoothgate evaluate`: defences under attack."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from service.cli.common import Json, console, failures, write


def evaluate(
    plan: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="What to do (TOML).")],
    output: Annotated[
        Path, typer.Option(help="Folder of the results; a run goes on where it stopped.")
    ] = Path("runs/evaluation"),
    json_file: Json = None,
) -> None:
    """Attack the demo model, defended in several ways, and report what held (needs the extra `dev`)."""
    from service.evaluation import report
    from service.evaluation.plan import load_plan
    from service.evaluation.robustness import Evaluation

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with failures():
        wanted = load_plan(plan)
        evaluation = Evaluation(wanted, output)
        cells = evaluation.cells()
        with Progress(*columns, console=console) as progress:
            task = progress.add_task("", total=len(cells) * wanted.n)
            evaluation.run(lambda cell, count: progress.update(task, description=cell.key, advance=count))
    flip = evaluation.base.calibration.figures.flip_point
    rows = report.summarise(evaluation.lines(), wanted, flip)
    report.write(output, plan.stem, rows, evaluation.gallery())
    console.print(report.markdown(rows), markup=False)
    console.print(f"Wrote {output / 'report.html'}")
    write(json_file, {"plan": wanted.model_dump(mode="json"), "flip_point": flip, "rows": rows})

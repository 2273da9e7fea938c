"""`smoothgate evaluate`: defences under attack."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from smoothgate.cli.common import Json, console, failures, write
from smoothgate_lab.cli.evaluation_options import Plan, ReportOnly, Results

if TYPE_CHECKING:
    from smoothgate_lab.evaluation.robustness import Evaluation


def evaluate(
    plan: Plan,
    output: Results = Path("runs/evaluation"),
    url: Annotated[
        str | None,
        typer.Option(help="Service for black-box attacks. By default `serve` is started for them."),
    ] = None,
    report_only: ReportOnly = False,
    json_file: Json = None,
) -> None:
    """Attack the demo model with several defences and report the results."""
    from smoothgate.vision import hide_progress
    from smoothgate_lab.evaluation.evaluation_plan import load_plan
    from smoothgate_lab.evaluation.robustness import Evaluation

    hide_progress()
    with failures():
        evaluation = Evaluation(load_plan(plan), output)
        if not report_only:
            _run(evaluation, url)
    report_on(evaluation, plan.stem, json_file)


def report_on(evaluation: Evaluation, name: str, json_file: Path | None) -> None:
    """Print the results of an evaluation that are there, and write its report.

    Args:
        evaluation: run, or in the middle of a run.
        name: of the report's plots.
        json_file: gets plan and rows; None: they are not written.
    """
    from rich.markdown import Markdown

    from smoothgate_lab.evaluation import report

    rows = report.summarise(evaluation.lines(), evaluation.plan)
    report.write(evaluation.folder, name, rows, evaluation.gallery())
    console.print(Markdown(report.markdown(rows)))
    console.print(f"Wrote {evaluation.folder / 'report.html'}")
    write(json_file, {"plan": evaluation.plan.model_dump(mode="json"), "rows": rows})


def run_with_progress(evaluation: Evaluation) -> None:
    """Do the remaining work of an evaluation, and show how far it is."""
    from smoothgate.progress import progress

    with progress(console=console) as bar:
        total = sum(evaluation.plan.size(cell) for cell in evaluation.plan.cells())
        task = bar.add_task("", total=total)
        evaluation.run(lambda cell, count: bar.update(task, description=cell.key, advance=count))


def _run(evaluation: Evaluation, url: str | None) -> None:
    from smoothgate_lab.evaluation.running_service import running

    with ExitStack() as stack:
        evaluation.url = url
        if url is None and evaluation.asks_service():
            console.print("Starting the service for black-box attacks.")
            # The undefended model is asked there too.
            settings = {"SMOOTHGATE_ALLOW_SMOOTHING_OFF": "true"}
            evaluation.url = stack.enter_context(running(evaluation.folder / "service.log", settings)).url
        run_with_progress(evaluation)

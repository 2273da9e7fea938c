"""Options that the commands about attacks share. It imports little, as all modules of commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Plan = Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="Plan of the evaluation (TOML).")]
Results = Annotated[
    Path, typer.Option(help="Folder of attacked pictures and results. A run resumes where it stopped.")
]
ReportOnly = Annotated[
    bool, typer.Option("--report-only", help="Report the present results without further work.")
]

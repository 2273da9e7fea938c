"""Options that the commands about certified answers share. It imports little, as all modules of commands."""

from __future__ import annotations

from typing import Annotated

import typer

Samples = Annotated[
    int, typer.Option(min=512, help="Certification samples per picture; whole blocks of 512 are drawn.")
]
Factors = Annotated[
    list[float], typer.Option(min=0.01, help="Radii of the attacks, in certified radii of the picture.")
]
SamplesReport = Annotated[
    bool, typer.Option("--report-only", help="Report the present samples without further ones.")
]
AttacksReport = Annotated[
    bool, typer.Option("--report-only", help="Report the present attacks without further ones.")
]

"""`smoothgate photos`: the photographs model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from smoothgate.cli.common import failures

app = typer.Typer(no_args_is_help=True, help="The photographs model (CIFAR-10).")

Data = Annotated[
    Path,
    typer.Option(
        exists=True,
        file_okay=False,
        help="Folder with cifar-10-binary.tar.gz, or with cifar10-train.npz and cifar10-test.npz.",
    ),
]


@app.command("train")
def photos_train(
    data: Data,
    work: Annotated[
        Path, typer.Option(help="Folder for checkpoints and logs. A run resumes where it stopped.")
    ] = Path("runs/photos/work"),
    seed: Annotated[int, typer.Option(help="Seed of data and initial weights.")] = 1,
    bfloat16: Annotated[
        bool, typer.Option(help="Compute in bfloat16: faster on CPUs with AVX-512-BF16, slow without.")
    ] = False,
) -> None:
    """Train the photographs model from scratch."""
    from smoothgate_lab.photos.photo_training import PhotoTraining
    from smoothgate_lab.photos.photographs import load_photographs

    with failures():
        run = PhotoTraining(load_photographs(data, "train"), work, seed, bfloat16=bfloat16)
        run.teacher()

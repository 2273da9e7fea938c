"""`smoothgate photos`: the photographs model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from smoothgate.cli.common import Json, console, errors, failures, write

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
    output: Annotated[Path, typer.Option(help="Folder that gets `model`.")] = Path("runs/photos"),
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
        training = PhotoTraining(load_photographs(data, "train"), work, seed, bfloat16=bfloat16)
        training.run(output)
    console.print(f"Wrote {output}/model")


@app.command("evaluate")
def photos_evaluate(
    data: Data,
    model: Annotated[Path, typer.Option(exists=True, file_okay=False, help="Folder of the model.")] = Path(
        "runs/photos/model"
    ),
    per_class: Annotated[
        int, typer.Option(min=1, help="The first of each class's test pictures, in this number.")
    ] = 1000,
    seed: Annotated[int, typer.Option(help="Seed of the classes that are asked about.")] = 7,
    json_file: Json = None,
) -> None:
    """Measure exact-match accuracy of the photographs model on test pictures, undefended."""
    from smoothgate_lab.chat_models.answerer import Answerer
    from smoothgate_lab.chat_models.exact_match import accuracy_table
    from smoothgate_lab.photos.photo_evaluation import photo_accuracy
    from smoothgate_lab.photos.photographs import load_photographs

    with failures():
        photographs = load_photographs(data, "test").of_each_class(0, per_class)
        figures = photo_accuracy(Answerer(model), photographs, seed)
    title = f"Exact match on {len(photographs)} test pictures, undefended, seed {seed}"
    console.print(accuracy_table(figures, title))
    for name, wrong in figures["errors"].items():
        errors.print(f"{name}: {'; '.join(wrong)}", style="dim")
    write(json_file, figures)

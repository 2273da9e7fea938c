"""`smoothgate photos`: the photographs model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from smoothgate.bundled import PHOTOS
from smoothgate.cli.common import Json, Lists, Sigmas, console, errors, failures, write
from smoothgate_lab.cli.evaluation_options import Plan, ReportOnly, Results
from smoothgate_lab.cli.vote_options import AttacksReport, Factors, Samples, SamplesReport

_SIGMAS = [0.12, 0.25, 0.5, 1.0]
_FACTORS = [0.5, 1.0, 2.0]
#: Where Debian's package dataset-fashion-mnist has the data.
FASHION_MNIST_FOLDER = Path("/usr/share/datasets/fashion-mnist")

app = typer.Typer(no_args_is_help=True, help="The photographs model (Fashion-MNIST).")

Data = Annotated[
    Path,
    typer.Option(
        exists=True,
        file_okay=False,
        help="Folder with the files of Fashion-MNIST or of CIFAR-10.",
    ),
]

Model = Annotated[
    Path | None,
    typer.Option(exists=True, file_okay=False, help="Folder of the model. By default the bundled one."),
]
Psm = Annotated[
    Path | None,
    typer.Option(
        "--psm", exists=True, file_okay=False, help="Folder of its PSM. By default the bundled one."
    ),
]


@app.command("train")
def photos_train(
    data: Data = FASHION_MNIST_FOLDER,
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
    data: Data = FASHION_MNIST_FOLDER,
    model: Model = None,
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
        figures = photo_accuracy(Answerer(model or PHOTOS.model), photographs, seed)
    title = f"Exact match on {len(photographs)} test pictures, undefended, seed {seed}"
    console.print(accuracy_table(figures, title))
    for name, wrong in figures["errors"].items():
        errors.print(f"{name}: {'; '.join(wrong)}", style="dim")
    write(json_file, figures)


@app.command("pictures")
def photos_pictures(
    data: Data = FASHION_MNIST_FOLDER,
    output: Annotated[Path, typer.Option(help="Folder that gets the files.")] = Path("runs/photos/pictures"),
) -> None:
    """Write the training pictures as PNG files, for `smoothgate psm train --images`."""
    from PIL import Image

    from smoothgate_lab.photos.photographs import load_photographs

    with failures():
        photographs = load_photographs(data, "train")
    output.mkdir(parents=True, exist_ok=True)
    for number, picture in enumerate(photographs.pixels.permute(0, 2, 3, 1).numpy()):
        Image.fromarray(picture).save(output / f"{number:05}.png")
    console.print(f"Wrote {len(photographs)} pictures to {output}")


@app.command("votes", cls=Lists)
def photos_votes(
    data: Data = FASHION_MNIST_FOLDER,
    model: Model = None,
    psm: Psm = None,
    output: Annotated[
        Path, typer.Option(help="Folder of samples and results. A run resumes where it stopped.")
    ] = Path("runs/photos/votes"),
    sigma: Sigmas = _SIGMAS,
    pictures: Annotated[int, typer.Option(min=1, max=500, help="Test pictures for each sigma.")] = 500,
    n: Samples = 1024,
    first: Annotated[
        int, typer.Option(min=0, help="Of each class, the number of the first test picture, from 0.")
    ] = 0,
    seed: Annotated[int, typer.Option(help="Seed of the noise.")] = 26,
    report_only: SamplesReport = False,
    json_file: Json = None,
) -> None:
    """Measure certified accuracy of answers about 50 test pictures of each class, by default the first."""
    from smoothgate_lab.cli.vote_runs import measure_votes
    from smoothgate_lab.evaluation.asked_scenes import photo_scenes
    from smoothgate_lab.photos.photographs import load_photographs

    with failures():
        test = load_photographs(data, "test")
        scenes = photo_scenes(test, model or PHOTOS.model, psm or PHOTOS.psm, first)
        measure_votes(scenes, output, seed, sigma, None if report_only else (pictures, n), json_file)


@app.command("attack-votes", cls=Lists)
def photos_attack_votes(
    data: Data = FASHION_MNIST_FOLDER,
    model: Model = None,
    psm: Psm = None,
    output: Annotated[
        Path, typer.Option(help="Folder of `photos votes`: has samples, gets attacks. A run resumes.")
    ] = Path("runs/photos/votes"),
    sigma: Annotated[float, typer.Option(min=0.01, help="Noise level.")] = 0.25,
    pictures: Annotated[
        int, typer.Option(min=1, max=500, help="Test pictures: attacked where the answer is certified.")
    ] = 50,
    factor: Factors = _FACTORS,
    seed: Annotated[int, typer.Option(help="Seed of starts and noise.")] = 26,
    report_only: AttacksReport = False,
    json_file: Json = None,
) -> None:
    """Try to refute certificates of answers about test pictures by attacks inside their radius."""
    from smoothgate_lab.cli.vote_runs import attack_votes
    from smoothgate_lab.evaluation.asked_scenes import photo_scenes
    from smoothgate_lab.evaluation.vote_attacks import AttackTerms
    from smoothgate_lab.photos.photographs import load_photographs

    with failures():
        scenes = photo_scenes(load_photographs(data, "test"), model or PHOTOS.model, psm or PHOTOS.psm)
        terms = AttackTerms(sigma=sigma, seed=seed)
        attack_votes(scenes, output, terms, factor, None if report_only else pictures, json_file)


@app.command("attack")
def photos_attack(
    plan: Plan,
    data: Data = FASHION_MNIST_FOLDER,
    model: Model = None,
    psm: Psm = None,
    output: Results = Path("runs/photos/attacks"),
    report_only: ReportOnly = False,
    json_file: Json = None,
) -> None:
    """Attack the photographs model with several defences, as `smoothgate evaluate` attacks the demo's."""
    from smoothgate.errors import SmoothgateError
    from smoothgate.vision import hide_progress
    from smoothgate_lab.cli.evaluate_command import report_on, run_with_progress
    from smoothgate_lab.evaluation.attacked_scenes import attacked_photographs
    from smoothgate_lab.evaluation.evaluation_plan import load_plan
    from smoothgate_lab.evaluation.robustness import Evaluation
    from smoothgate_lab.photos.photographs import load_photographs

    hide_progress()
    with failures():
        wanted = load_plan(plan)
        scenes = attacked_photographs(load_photographs(data, "test"), wanted.n)
        evaluation = Evaluation(wanted, output, model or PHOTOS.model, psm or PHOTOS.psm, scenes)
        if evaluation.asks_service():
            raise SmoothgateError("Attacks on the running service are for the demo model.", code="no_service")
        if not report_only:
            run_with_progress(evaluation)
    report_on(evaluation, plan.stem, json_file)


@app.command("samples")
def photos_samples(
    data: Data = FASHION_MNIST_FOLDER,
    output: Annotated[Path, typer.Option(help="Folder to write.")] = Path("runs/photos/samples"),
) -> None:
    """Write the sample pictures that ship with the model, four test pictures of Fashion-MNIST."""
    from smoothgate_lab.photos.photo_samples import write_samples
    from smoothgate_lab.photos.photographs import load_photographs

    with failures():
        written = write_samples(output, load_photographs(data, "test"))
    for name, noun in written.items():
        console.print(f"{output / name}: {noun}")

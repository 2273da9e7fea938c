"""`smoothgate psm train`, `tune` and `evaluate`: purifier and smoothness mapper of a model."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from smoothgate.bundled import DEMO, bundled, checkpoint_of
from smoothgate.cli.common import (
    CALIBRATED,
    Device,
    Json,
    OtherModel,
    Sigmas,
    console,
    failures,
    load_adapter,
    load_encoder,
    measure_smoothed,
    say_unreadable,
    write,
)
from smoothgate.errors import MalformedRequest

if TYPE_CHECKING:
    from torch import nn

    from smoothgate.psm.calibration import Calibration
    from smoothgate.vision import VisionAdapter
    from smoothgate_lab.evaluation.psm_evaluation import Subjects
    from smoothgate_lab.psm_training.stages import Pictures

Images = Annotated[
    Path | None,
    typer.Option(
        exists=True, file_okay=False, help="Folder of ordinary pictures. By default scenes of the demo model."
    ),
]
ItsFolder = Annotated[
    Path | None,
    typer.Option(
        "--psm", exists=True, file_okay=False, help="Folder of the PSM. By default the bundled one."
    ),
]
Bfloat16 = Annotated[
    bool,
    typer.Option(
        "--bfloat16",
        help="Compute in bfloat16 on a CPU too: faster with AMX or AVX-512-BF16, slow without.",
    ),
]
_SIGMAS = [0.25, 0.5, 0.75]
_EPS = [0.25, 0.5, 1.0]
# Number of pictures for the mean robustness scores.
_PARTS = ["identity", "purifier", "mapper", "both"]


class MapperChoice(StrEnum):
    """Which mapper to train."""

    RESIDUAL = "residual"
    IDENTITY = "identity"


def train(
    model: OtherModel = None,
    images: Images = None,
    output: Annotated[
        Path, typer.Option(help="Folder to write. SMOOTHGATE_PSM tells the service about it.")
    ] = Path("runs/psm"),
    work: Annotated[
        Path | None,
        typer.Option(
            help="Folder for checkpoints and logs, by default OUTPUT/work. A run resumes where it stopped."
        ),
    ] = None,
    sigma: Annotated[
        list[float],
        typer.Option(min=0.01, help="Noise levels of half of the samples. The others get any level up to 1."),
    ] = _SIGMAS,
    purifier: Annotated[
        str,
        typer.Option(
            help="`light` (a small U-Net), `identity`, or a DDPM checkpoint in diffusers' format to "
            "start from: a folder or a Hugging Face id."
        ),
    ] = "light",
    patch: Annotated[
        int,
        typer.Option(
            min=1,
            help="Side of the blocks of pixels of the light purifier: small ones for small canvases.",
        ),
    ] = 4,
    mapper: Annotated[MapperChoice, typer.Option(help="Mapper to train.")] = MapperChoice.RESIDUAL,
    denoise_steps: Annotated[int, typer.Option(min=0, help="Updates of stage 1 without the encoder.")] = 3000,
    purifier_steps: Annotated[int, typer.Option(min=0, help="Updates of stage 1 with all losses.")] = 5000,
    mapper_steps: Annotated[int, typer.Option(min=0, help="Updates of stage 2.")] = 1500,
    joint_steps: Annotated[
        int, typer.Option(min=0, help="Updates of stage 3, both networks together (our extension).")
    ] = 3600,
    served_steps: Annotated[
        int,
        typer.Option(
            min=0,
            help="Updates of stage 4, which at little noise makes the mean of the samples right instead of "
            "each sample (our extension).",
        ),
    ] = 3000,
    batch: Annotated[int, typer.Option(min=2, help="Noisy canvases per batch, two of each picture.")] = 64,
    accumulate: Annotated[int, typer.Option(min=1, help="Batches per update.")] = 1,
    consistency: Annotated[
        float, typer.Option(min=0, help="Weight of our consistency loss relative to l_rb. The paper has 0.")
    ] = 0.5,
    joint_consistency: Annotated[
        float, typer.Option(min=0, help="The same in stages 3 and 4 from sigma 0.5 on. It is less below.")
    ] = 1.0,
    patience: Annotated[
        int,
        typer.Option(
            min=1, help="Early stopping after this number of held-out measurements without a better one."
        ),
    ] = 4,
    save_every: Annotated[int, typer.Option(min=1, help="Updates between two checkpoints.")] = 250,
    seed: Annotated[int, typer.Option(help="Seed of weights, pictures and noise.")] = 1,
    bfloat16: Bfloat16 = False,
    device: Device = "auto",
) -> None:
    """Train purifier and mapper for a model. The model's own weights do not change."""
    import torch

    from smoothgate_lab.psm_training.stages import Recipe, Trainer

    with failures():
        adapter = load_adapter(model, device)
        training, held_out = _training_pictures(adapter, model, images, seed)
        skipped: list[Path] = []
        calibration = _calibration(adapter, images, output, skipped)
        recipe = Recipe(
            sigmas=tuple(sigma),
            sigma_max=max(1.0, *sigma),
            batch=batch,
            accumulate=accumulate,
            denoise_steps=denoise_steps,
            purifier_steps=purifier_steps,
            mapper_steps=mapper_steps,
            joint_steps=joint_steps,
            served_steps=served_steps,
            lambda_consistency=consistency,
            lambda_joint_consistency=joint_consistency,
            patience=patience,
            seed=seed,
            bfloat16=bfloat16,
        )
        torch.manual_seed(seed)
        trainer = Trainer(
            adapter, calibration, training, held_out, recipe, work or output / "work", save_every=save_every
        )
        psm = trainer.run(_purifier(purifier, patch), mapper=mapper is MapperChoice.RESIDUAL)
        psm.save(output)
        measure_smoothed(adapter, output, calibration, held_out(0, CALIBRATED), sigma, seed)
    _say_skipped(training, held_out, skipped)
    console.print(f"Wrote {output}; its digest is {psm.digest}")


def tune(
    model: OtherModel = None,
    psm: ItsFolder = None,
    images: Images = None,
    output: Annotated[
        Path, typer.Option(help="Folder to write. SMOOTHGATE_PSM tells the service about it.")
    ] = Path("runs/tuned"),
    steps: Annotated[int, typer.Option(min=1, help="Updates of the weights.")] = 600,
    sigma: Annotated[
        list[float] | None,
        typer.Option(
            min=0.01,
            help="Noise levels of half of the samples, by default those that the PSM is calibrated at. The "
            "others get any level up to 1.",
        ),
    ] = None,
    votes: Annotated[
        bool,
        typer.Option(
            help="Tune for certified answers: each single sample is to answer as the picture without noise "
            "does. It loads the whole model. Pictures are attacked only with --attacked."
        ),
    ] = False,
    question: Annotated[
        list[str] | None,
        typer.Option(
            help="With --votes: questions to ask, by default some about any picture. One that is named twice "
            "is asked twice as often."
        ),
    ] = None,
    distribution: Annotated[
        float,
        typer.Option(min=0, help="With --votes: weight of the distance from the answer without noise."),
    ] = 1.0,
    agreement: Annotated[
        float,
        typer.Option(min=0, help="With --votes: weight of the consistency loss of Jeong & Shin (2020)."),
    ] = 0.0,
    attacked: Annotated[bool, typer.Option(help="With --votes: attack pictures on these losses.")] = False,
    batch: Annotated[int, typer.Option(min=2, help="Noisy canvases per batch, two of each picture.")] = 64,
    accumulate: Annotated[int, typer.Option(min=1, help="Batches per update.")] = 1,
    save_every: Annotated[int, typer.Option(min=1, help="Updates between two checkpoints.")] = 250,
    seed: Annotated[int, typer.Option(help="Seed of pictures, noise and attacks.")] = 1,
    bfloat16: Bfloat16 = False,
    device: Device = "auto",
) -> None:
    """Fine-tune a trained PSM, on attacked pictures or for votes (our extensions)."""
    from smoothgate_lab.demo.scene_stream import twin_pictures
    from smoothgate_lab.psm_training.frozen_language_model import FrozenLanguageModel
    from smoothgate_lab.psm_training.stages import Recipe, Trainer
    from smoothgate_lab.psm_training.vote_tuning import QUESTIONS, VoteRecipe, VoteTuning

    with failures():
        if not votes and (question or attacked or agreement or distribution != 1):
            raise MalformedRequest("--question, --distribution, --agreement and --attacked need --votes.")
        encoder = load_encoder(model, psm, device)
        calibration = encoder.calibration
        if images is None and not votes:
            _require_demo(model)
            training, held_out = twin_pictures(seed + 10), twin_pictures(seed + 11, augment=False)
        else:
            training, held_out = _training_pictures(encoder.adapter, model, images, seed)
        calibrated = [float(level) for level in calibration.figures.scores]
        sigmas = sigma or calibrated
        if not sigmas:
            raise MalformedRequest("This PSM is calibrated at no noise level: name some with --sigma.")
        recipe = Recipe(
            sigmas=tuple(sigmas),
            sigma_max=max(1.0, *sigmas),
            batch=batch,
            accumulate=accumulate,
            denoise_steps=0,
            purifier_steps=0,
            mapper_steps=0,
            joint_steps=0,
            served_steps=0,
            adversarial_steps=0 if votes else steps,
            seed=seed,
            bfloat16=bfloat16,
        )
        work = output / "work"
        trainer = Trainer(
            encoder.adapter, calibration, training, held_out, recipe, work, save_every=save_every
        )
        if votes:
            vote_recipe = VoteRecipe(
                steps=steps,
                questions=tuple(question or QUESTIONS),
                lambda_distribution=distribution,
                lambda_agreement=agreement,
                attacked=attacked,
            )
            language_model = FrozenLanguageModel(checkpoint_of(model), encoder.adapter)
            tuned = trainer.train_for_votes(encoder.psm, VoteTuning(language_model, vote_recipe))
        else:
            tuned = trainer.train_adversarially(encoder.psm)
        tuned.save(output)
        levels = sorted({*calibrated, *sigmas})
        measure_smoothed(encoder.adapter, output, calibration, held_out(0, CALIBRATED), levels, seed)
    _say_skipped(training, held_out)
    console.print(f"Wrote {output}; its digest is {tuned.digest}")


def evaluate(
    model: OtherModel = None,
    psm: ItsFolder = None,
    images: Images = None,
    sigma: Sigmas = _SIGMAS,
    eps: Annotated[list[float], typer.Option(min=0.001, help="l2 radii of the bound.")] = _EPS,
    part: Annotated[
        list[str], typer.Option(help="Parts to compare: identity, purifier, mapper, both.")
    ] = _PARTS,
    n: Annotated[
        int, typer.Option(min=8, help="Number of held-out scenes, or of pictures of the folder.")
    ] = 500,
    twins: Annotated[int, typer.Option(min=0, help="Number of scenes whose twin is smoothed too.")] = 100,
    n_select: Annotated[int, typer.Option(min=1, help="Noise samples that choose the served feature.")] = 64,
    n_certify: Annotated[int, typer.Option(min=1, help="New noise samples for score and bound.")] = 64,
    alpha: Annotated[
        float, typer.Option(min=1e-9, max=0.5, help="Probability of a wrong certificate.")
    ] = 0.001,
    seed: Annotated[int, typer.Option(help="Seed of scenes and noise.")] = 7,
    device: Device = "auto",
    plot: Annotated[Path | None, typer.Option(help="Also draw an SVG.")] = None,
    json_file: Json = None,
) -> None:
    """Measure score, answers, chance and twin cosine, FCSB and speed of a PSM and its parts."""
    from smoothgate_lab.evaluation.psm_evaluation import PARTS, Sampling, run

    with failures():
        if unknown := sorted(set(part) - set(PARTS)):
            raise MalformedRequest(f"--part {', '.join(unknown)}: none of {', '.join(PARTS)}.")
        encoder = load_encoder(model, psm, device)
        sampling = Sampling(
            sigmas=tuple(sigma),
            eps=tuple(sorted(set(eps))),
            n_select=n_select,
            n_certify=n_certify,
            alpha=alpha,
            seed=seed,
        )
        if images is None:
            _require_demo(model)
            from smoothgate_lab.demo.digit_scenes import DigitScenes

            subjects: Subjects = DigitScenes(encoder.adapter, n, min(twins, n), seed)
        else:
            from smoothgate_lab.evaluation.psm_evaluation import FolderSubjects

            subjects = FolderSubjects(encoder.adapter, images, n)
        figures = run(encoder, part, subjects, sampling)
    say_unreadable(getattr(subjects, "unreadable", ()))
    _show(figures)
    write(json_file, figures)
    if plot is not None:
        from smoothgate_lab.evaluation.attack_plots import plot_psm

        plot_psm(figures, plot)


def _show(figures: dict[str, Any]) -> None:
    sampling = figures["sampling"]
    radii = [f"{eps:g}" for eps in sampling["eps"]]
    questions = list(figures["undefended"]["accuracy"])
    samples = f"{sampling['n_select']} + {sampling['n_certify']}"
    title = f"{figures['n']} pictures, n = {samples}, alpha {sampling['alpha']:g}"
    bounds = Table("part", "sigma", "score", *(f"FCSB {eps}" for eps in radii), title=title)
    answers = Table("part", "sigma", *questions, title="Exact match of answers")
    cosines = Table("part", "sigma", "unrelated", "95 %", "twin", "clean", "samples/s")
    cosines.title = "Cosines of what is served, and speed"
    plain = figures["undefended"]
    answers.add_row("none", "0", *(f"{value:.1%}" for value in plain["accuracy"].values()))
    cosines.add_row("none", "0", *_cosine_cells(plain | {"clean_cosine": 1.0}), "-")
    for row in figures["rows"]:
        name = (row["part"], f"{row['sigma']:g}")
        mean = [f"{row['fcsb'][eps]:.3f}" for eps in radii]
        bounds.add_row(*name, f"{row['score']:.4f}", *mean)
        answers.add_row(*name, *(f"{value:.1%}" for value in row["accuracy"].values()))
        cosines.add_row(*name, *_cosine_cells(row), f"{row['samples_per_second']:.0f}")
    for table in (bounds, answers, cosines) if questions else (bounds, cosines):
        console.print(table)


def _cosine_cells(figures: dict[str, Any]) -> list[str]:
    twin = figures["twin_cosine"]
    return [
        f"{figures['chance_mean']:.3f}",
        f"{figures['chance_p95']:.3f}",
        "-" if twin is None else f"{twin:.3f}",
        f"{figures['clean_cosine']:.3f}",
    ]


def _require_demo(model: str | None) -> None:
    if bundled(model) is not DEMO:
        raise MalformedRequest("--model needs --images, a folder of pictures.")


def _purifier(choice: str, patch: int) -> nn.Module:
    from smoothgate.psm.checkpoint import Identity
    from smoothgate.psm.purifier import LightUNet, LightUNetConfig

    match choice:
        case "light":
            return LightUNet(LightUNetConfig(patch=patch))
        case "identity":
            return Identity()
    from smoothgate.psm.diffusion_purifier import DiffusionPurifier

    return DiffusionPurifier.from_pretrained(choice)


def _training_pictures(
    adapter: VisionAdapter, model: str | None, images: Path | None, seed: int
) -> tuple[Pictures, Pictures]:
    """Training and held-out pictures."""
    from smoothgate.psm.picture_files import list_pictures
    from smoothgate_lab.demo.scene_stream import scene_pictures
    from smoothgate_lab.psm_training.folder_pictures import FolderPictures, split_pictures

    if images is None:
        _require_demo(model)
        return scene_pictures(seed + 10), scene_pictures(seed + 11, augment=False)
    training, held_out = split_pictures(list_pictures(images))
    return FolderPictures(adapter, training, seed + 10), FolderPictures(adapter, held_out, seed + 11)


def _say_skipped(training: Pictures, held_out: Pictures, others: Sequence[Path] = ()) -> None:
    seen = (getattr(pictures, "unreadable", ()) for pictures in (training, held_out))
    say_unreadable(sorted({*others}.union(*seen)))


def _calibration(
    adapter: VisionAdapter, images: Path | None, output: Path, unreadable: list[Path]
) -> Calibration:
    """The model's calibration: the one in OUTPUT or a new one. `unreadable` gets the skipped pictures."""
    from smoothgate.psm.calibration import FILE, Calibration, calibrate
    from smoothgate.psm.picture_files import clean_tokens, list_pictures, read_pictures
    from smoothgate_lab.psm_training.folder_pictures import split_pictures

    if images is None:
        return Calibration.load(DEMO.psm)
    if (output / FILE).is_file():
        known = Calibration.load(output)
        if known.figures.model_digest == adapter.digest:
            return known
    training, _ = split_pictures(list_pictures(images))
    # A centre per channel needs fewer pictures, because every token of a picture is a sample of it.
    most = 2000 if adapter.token_grid is not None else 256
    some = training[:: max(1, len(training) // most)]
    console.print(f"Measuring centre and scale on {len(some)} pictures")
    features = clean_tokens(adapter, read_pictures(some, unreadable))
    return calibrate(features, None, adapter.digest, per_channel=adapter.token_grid is None)

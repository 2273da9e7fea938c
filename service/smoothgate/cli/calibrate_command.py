"""`smoothgate psm calibrate`: what a model needs before it can be served."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from smoothgate.cli.common import (
    CALIBRATED,
    Device,
    OtherModel,
    Sigmas,
    console,
    errors,
    failures,
    load_adapter,
    measure_smoothed,
    say_unreadable,
)
from smoothgate.extras import require

_SIGMAS = [0.25, 0.5, 0.75, 1.0]


def calibrate(
    images: Annotated[Path, typer.Option(exists=True, file_okay=False, help="Folder of ordinary pictures.")],
    model: OtherModel = None,
    output: Annotated[
        Path,
        typer.Option(help="Folder to write, as in SMOOTHGATE_PSM. A PSM that is in it is scored."),
    ] = Path("runs/psm"),
    twins: Annotated[
        Path | None,
        typer.Option(exists=True, file_okay=False, help="Pictures of the same names with another answer."),
    ] = None,
    sigma: Sigmas = _SIGMAS,
    seed: Annotated[int, typer.Option(help="Seed of the noise of the scores.")] = 1,
    device: Device = "auto",
) -> None:
    """Measure centre, scale, chance cosines and scores of a model. A few hundred pictures are enough.

    Certificates say something at these noise levels only.
    """
    with failures():
        require("serve", "`smoothgate psm calibrate`")
        from smoothgate.psm.calibration import calibrate as measure
        from smoothgate.psm.picture_files import clean_tokens, list_pictures, random_canvases, read_pictures
        from smoothgate.sampling.chance import FEWEST

        unreadable: list[Path] = []
        paths = list_pictures(images)
        adapter = load_adapter(model, device)
        if twins is not None:
            paths = [path for path in paths if (twins / path.relative_to(images)).is_file()]
        features = clean_tokens(adapter, read_pictures(paths, unreadable))
        others = None
        if twins is not None:
            other_paths = [twins / path.relative_to(images) for path in paths]
            others = clean_tokens(adapter, read_pictures(other_paths, unreadable))
        per_channel = adapter.token_grid is None
        result = measure(features, others, adapter.digest, per_channel=per_channel)
        readable = [path for path in paths if path not in unreadable]
        x = random_canvases(adapter, readable, CALIBRATED, seed)
        result = measure_smoothed(adapter, output, result, x, sigma, seed)
    say_unreadable(unreadable)
    if not result.figures.chance:
        errors.print(
            f"{len(readable)} pictures are too few to know the cosine of unrelated ones, which takes "
            f"{FEWEST}: every certificate will be vacuous (not calibrated).",
            style="yellow",
        )
    table = Table(title=f"Calibration of {model or 'the demo model'}", show_header=False)
    figures = dataclasses.asdict(result.figures)
    scores, canary_scores = figures.pop("scores"), figures.pop("canary_scores")
    chance = figures.pop("chance")
    for name, value in [
        *figures.items(),
        *((f"score at sigma {key}", value) for key, value in scores.items()),
        *((f"canary's score at sigma {key}", value) for key, value in canary_scores.items()),
        *((f"chance cosine at sigma {key}, limit", value["p95_limit"]) for key, value in chance.items()),
    ]:
        table.add_row(name, f"{value:.4f}" if isinstance(value, float) else str(value))
    console.print(table)

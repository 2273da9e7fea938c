"""What commands share: consoles, options, error messages, and loading models."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperCommand

from smoothgate.bundled import CANARY, checkpoint_of, psm_of
from smoothgate.errors import MalformedRequest, SmoothgateError
from smoothgate.extras import require

if TYPE_CHECKING:
    from torch import Tensor

    from smoothgate.psm.calibration import Calibration
    from smoothgate.psm.unit_encoder import UnitEncoder
    from smoothgate.vision import VisionAdapter

#: Pictures that chance cosines are measured on, in pairs.
CALIBRATED = 256
# Pictures that the robustness scores are means over.
_SCORED = 64
# Noise samples behind each direction that chance cosines compare.
_COPIES = 32

console = Console()
errors = Console(stderr=True)

Json = Annotated[Path | None, typer.Option("--json", help="Also write the figures to this file.")]
OtherModel = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="Checkpoint: a folder, a Hugging Face id or the name of a bundled model. Left out: demo.",
    ),
]
Device = Annotated[str, typer.Option(help="cpu, cuda or cuda:N; auto: CUDA where there is one.")]
Sigmas = Annotated[list[float], typer.Option(min=0.01, help="Noise levels, one or several.")]


class failures:  # noqa: N801
    """Ends the command with the message of a known error instead of a traceback."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, SmoothgateError):
            errors.print(error.message, style="red", markup=False, soft_wrap=True)
            raise typer.Exit(1) from None


class Lists(TyperCommand):
    """A command whose repeatable options also take several values at once: `--sigma 0.25 0.5`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Repeat the option before each further value."""
        repeatable = {name for p in self.params if getattr(p, "multiple", False) for name in p.opts}
        spread: list[str] = []
        option = None
        for word in args:
            if word.startswith("-") and not _is_number(word):
                option = word if word in repeatable else None
            elif option is not None and spread[-1] != option:
                spread.append(option)
            spread.append(word)
        return super().parse_args(ctx, spread)


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def write(file: Path | None, figures: dict[str, Any]) -> None:
    """Write figures as JSON if a file is given."""
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(figures, indent=2) + "\n")


def say_unreadable(paths: Sequence[Path]) -> None:
    """Name the pictures that were skipped, and count them."""
    for path in paths:
        errors.print(f"skipped, cannot be read: {path}", style="yellow")
    if paths:
        errors.print(f"{len(paths)} pictures skipped", style="yellow")


def load_adapter(
    model: str | None, device: str = "cpu", max_canvas_pixels: int | None = None, dtype: str = "float32"
) -> VisionAdapter:
    """The vision part of a checkpoint or a bundled model, with or without a limit on its canvases.

    Raises:
        MissingExtra: the extra `serve` is not installed.
        SmoothgateError: the model or the device is not there, or the model is not supported.
    """
    require("serve", "A command that loads a model")
    import torch

    from smoothgate.vision import devices_named, hide_progress, load, require_checkpoint

    hide_progress()
    checkpoint = checkpoint_of(model)
    require_checkpoint(checkpoint)
    return load(
        checkpoint,
        device=devices_named(device)[0],
        dtype=getattr(torch, dtype),
        max_canvas_pixels=max_canvas_pixels,
    )


def load_encoder(
    model: str | None,
    psm: Path | None,
    device: str = "cpu",
    max_canvas_pixels: int | None = None,
    dtype: str = "float32",
) -> UnitEncoder:
    """A model with its calibration and PSM, those of a bundled model left out; raises as `load_adapter`."""
    psm = psm_of(model, psm)
    if psm is None:
        raise MalformedRequest("--model needs --psm, the folder of its calibration.")
    adapter = load_adapter(model, device, max_canvas_pixels, dtype)
    from smoothgate.psm.unit_encoder import UnitEncoder

    return UnitEncoder.load(adapter, psm)


def measure_smoothed(
    adapter: VisionAdapter,
    folder: Path,
    calibration: Calibration,
    x: Tensor,
    sigmas: list[float],
    seed: int,
) -> Calibration:
    """Measure robustness scores, the canary's too, and chance cosines of a PSM, and save the calibration.

    Args:
        adapter: h.
        folder: of the PSM; gets the calibration.
        calibration: centre and scale.
        x: canvases (N, 3, H, W) of unrelated pictures, `CALIBRATED` of them or more. The first 64 are scored.
        sigmas: noise levels.
        seed: of the noise.
    """
    from smoothgate.psm.checkpoint import PSM
    from smoothgate.psm.picture_files import read_picture
    from smoothgate.psm.unit_encoder import UnitEncoder
    from smoothgate.sampling.chance import chance_figures
    from smoothgate.sampling.splits import robustness_scores

    encoder = UnitEncoder(adapter, calibration, PSM.load(folder))
    canary = adapter.canvas(read_picture(CANARY))
    x = x.to(adapter.device)
    scores = robustness_scores(encoder.units, x[:_SCORED], sigmas, seed)
    canary_scores = robustness_scores(
        encoder.units, canary.x[None].to(adapter.device), sigmas, seed, layout=canary.layout
    )
    chance = chance_figures(encoder.units, x, sigmas, seed + 1, _COPIES)
    measured = calibration.with_smoothed(scores, chance, encoder.psm_digest, canary_scores)
    measured.save(folder)
    return measured

"""What the commands share: consoles, options, failures, and the loading of models."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperCommand

from smoothgate.errors import MalformedRequest, SmoothgateError

if TYPE_CHECKING:
    from smoothgate.psm.calibration import Calibration
    from smoothgate.psm.unit_encoder import UnitEncoder
    from smoothgate.vision import VisionAdapter
    from smoothgate_lab.psm_training.stages import Pictures

console = Console()
errors = Console(stderr=True)

Json = Annotated[Path | None, typer.Option("--json", help="Also write the figures to this file.")]
OtherModel = Annotated[
    str | None,
    typer.Option(
        "--model", help="Checkpoint: a folder or a Hugging Face id; left out: the bundled demo model."
    ),
]
Device = Annotated[str, typer.Option(help="cpu or cuda.")]


class failures:  # noqa: N801
    """Known failures end the command with their message, not with a traceback."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, SmoothgateError):
            errors.print(error.message, style="red")
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
    """Write figures as JSON, where a file is asked for."""
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(figures, indent=2) + "\n")


def say_unreadable(paths: Sequence[Path]) -> None:
    """Name the pictures that were skipped, and count them."""
    for path in paths:
        errors.print(f"skipped, cannot be read: {path}", style="yellow")
    if paths:
        errors.print(f"{len(paths)} pictures skipped", style="yellow")


def load_adapter(model: str | None, device: str = "cpu") -> VisionAdapter:
    """The vision part of a checkpoint, or of the bundled demo model."""
    import torch

    from smoothgate.demo import bundled
    from smoothgate.vision import load

    return load(model or str(bundled("model")), device=device, dtype=torch.float32)


def load_encoder(model: str | None, psm: Path | None, device: str = "cpu") -> UnitEncoder:
    """A model with its calibration and PSM, or the bundled ones."""
    from smoothgate.demo import bundled
    from smoothgate.psm.unit_encoder import UnitEncoder

    if model is not None and psm is None:
        raise MalformedRequest("--model needs --psm, the folder of its calibration.")
    return UnitEncoder.load(load_adapter(model, device), psm or bundled("psm"))


def measure_scores(
    adapter: VisionAdapter,
    folder: Path,
    calibration: Calibration,
    pictures: Pictures,
    sigmas: list[float],
    seed: int,
) -> Calibration:
    """Score the PSM in a folder on 64 pictures, and write the calibration with the scores beside it."""
    from smoothgate.psm.checkpoint import PSM
    from smoothgate.psm.unit_encoder import UnitEncoder
    from smoothgate.sampling.splits import robustness_scores

    encoder = UnitEncoder(adapter, calibration, PSM.load(folder))
    x = pictures(0, 64).to(adapter.device)
    scored = calibration.with_scores(robustness_scores(encoder.units, x, sigmas, seed), encoder.psm_digest)
    scored.save(folder)
    return scored

"""The loop that every training stage of the demo runs in: optimiser, schedule, progress, exact resume."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

_SAVE_EVERY = 250


class Muon(Optimizer):
    """Momentum orthogonalised by Newton-Schulz (Jordan et al. 2024), in float32.

    `torch.optim.Muon` iterates in bfloat16, which CPUs without AVX-512 emulate slowly.
    """

    def __init__(
        self, params: Iterable[Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0.01
    ):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update of every parameter with a gradient."""
        if closure is not None:
            raise ValueError("Muon takes no closure")
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                buffer = self.state[p].setdefault("momentum", torch.zeros_like(p))
                buffer.lerp_(p.grad, 1 - group["momentum"])
                update = _orthogonalise(p.grad.lerp(buffer, group["momentum"]))
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(update, alpha=-group["lr"] * max(1.0, p.shape[0] / p.shape[1]) ** 0.5)


def _orthogonalise(matrix: Tensor) -> Tensor:
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    result: Tensor = x.T if tall else x
    return result


@dataclass(frozen=True, slots=True)
class Schedule:
    """Length and learning rates of a stage: linear warm-up, constant, linear decay to zero."""

    steps: int
    muon_lr: float
    adam_lr: float
    warmup: int = 100
    decay: float = 0.4

    def factor(self, step: int) -> float:
        """Learning-rate factor at a step."""
        rising = (step + 1) / self.warmup
        falling = (self.steps - step) / (self.decay * self.steps)
        return min(1.0, rising, falling)


def train(
    name: str,
    module: nn.Module,
    loss: Callable[[int], tuple[Tensor, dict[str, float]]],
    schedule: Schedule,
    folder: Path,
    *,
    ema: float | None = 0.998,
) -> None:
    """Train a module in place and leave it with its averaged weights.

    The data of a step must be a function of the step's number alone (`seeded`): then a run that was
    interrupted and resumed from `folder/NAME.ckpt` gives the same weights as one that was not.

    Args:
        name: of the stage, for the progress bar and the files `NAME.ckpt`, `NAME.csv`.
        module: all that is trained; matrices named `*layers*` go to Muon, the rest to AdamW.
        loss: step -> (loss, figures to show).
        schedule: steps and learning rates.
        folder: where the checkpoint and the log are written.
        ema: decay of the weight average, or None for the last weights.
    """
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint, log = folder / f"{name}.ckpt", folder / f"{name}.csv"
    matrices: list[Tensor] = []
    others: list[Tensor] = []
    for key, p in module.named_parameters():
        if p.requires_grad:
            (matrices if p.ndim == 2 and "layers" in key else others).append(p)
    optimisers: list[Optimizer] = [AdamW(others, schedule.adam_lr, betas=(0.9, 0.98), weight_decay=0.01)]
    if matrices:
        optimisers.append(Muon(matrices, schedule.muon_lr))
    base = [group["lr"] for o in optimisers for group in o.param_groups]
    average = {k: v.detach().clone() for k, v in module.state_dict().items()}
    start = 0
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        module.load_state_dict(saved["module"])
        average, start = saved["average"], saved["step"]
        for o, state in zip(optimisers, saved["optimisers"], strict=True):
            o.load_state_dict(state)

    def save(step: int) -> None:
        state: dict[str, Any] = {
            "module": module.state_dict(),
            "average": average,
            "optimisers": [o.state_dict() for o in optimisers],
            "step": step,
        }
        torch.save(state, checkpoint.with_suffix(".tmp"))
        checkpoint.with_suffix(".tmp").replace(checkpoint)

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns) as progress, log.open("a") as rows:
        task = progress.add_task(name, total=schedule.steps, completed=start)
        for step in range(start, schedule.steps):
            factor = schedule.factor(step)
            groups = [group for o in optimisers for group in o.param_groups]
            for group, lr in zip(groups, base, strict=True):
                group["lr"] = lr * factor
            value, figures = loss(step)
            shown_loss = float(value.detach())
            if not math.isfinite(shown_loss):
                raise FloatingPointError(f"{name}: the loss is {shown_loss} at step {step}")
            torch.autograd.backward(value)
            nn.utils.clip_grad_norm_(others, 1.0)
            for o in optimisers:
                o.step()
                o.zero_grad(set_to_none=True)
            if ema is not None:
                decay = min(ema, (step + 1) / (step + 10))
                with torch.no_grad():
                    for key, current in module.state_dict().items():
                        if current.is_floating_point():
                            average[key].lerp_(current, 1 - decay)
                        else:
                            average[key].copy_(current)
            if step % 25 == 0:
                shown = " ".join(f"{k} {v:.3f}" for k, v in {"loss": shown_loss, **figures}.items())
                progress.update(task, description=f"{name}: {shown}")
                rows.write(f"{step},{shown}\n")
                rows.flush()
            progress.advance(task)
            if (step + 1) % _SAVE_EVERY == 0:
                save(step + 1)
    save(schedule.steps)
    if ema is not None:
        module.load_state_dict(average)


def seeded(seed: int, step: int) -> torch.Generator:
    """The generator of one step's data: a function of the run's seed and the step alone."""
    return torch.Generator().manual_seed(seed * 1_000_003 + step)

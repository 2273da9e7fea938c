"""The training loop of all trainings: optimiser, schedule, held-out split, progress and exact resume."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.optim import AdamW, Optimizer

from smoothgate.errors import SmoothgateError
from smoothgate.progress import progress

_LOG_EVERY = 25
_STATE = ("average", "best", "best_measured", "misses", "measured_at", "stopped", "step")


class Muon(Optimizer):
    """Momentum orthogonalised by Newton-Schulz (Jordan et al. 2024), in float32. Kernels count as matrices.

    `torch.optim.Muon` iterates in bfloat16, which CPUs without AVX-512 emulate slowly.
    """

    def __init__(
        self, params: Iterable[Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0.01
    ):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        if closure is not None:
            raise ValueError("Muon takes no closure")
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                buffer = self.state[p].setdefault("momentum", torch.zeros_like(p))
                buffer.lerp_(p.grad, 1 - group["momentum"])
                update = _orthogonalise(p.grad.lerp(buffer, group["momentum"]).flatten(1))
                p.mul_(1 - group["lr"] * group["weight_decay"])
                scale = max(1.0, update.shape[0] / update.shape[1]) ** 0.5
                p.add_(update.view_as(p), alpha=-group["lr"] * scale)


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
    """Length and learning rates of a stage: linear warm-up, constant, linear decay to zero.

    Attributes:
        steps: number of updates of the weights.
        muon_lr, adam_lr: learning rates of the matrices and of the rest.
        warmup: number of steps until the full rate.
        decay: share of the steps, at the end, in which the rate falls.
        accumulate: number of batches whose gradients are averaged into one update.
    """

    steps: int
    muon_lr: float
    adam_lr: float
    warmup: int = 100
    decay: float = 0.4
    accumulate: int = 1

    def factor(self, step: int) -> float:
        """The factor of the learning rates at a step."""
        rising = (step + 1) / self.warmup
        falling = (self.steps - step) / (self.decay * self.steps)
        return min(1.0, rising, falling)


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Early stopping: the averaged weights are measured regularly, and the best are kept.

    Attributes:
        measure: the loss on the held-out split. Lower is better. It must be deterministic.
        every: number of steps between two measurements.
        patience: training ends after this number of measurements without a better one.
    """

    measure: Callable[[], float]
    every: int
    patience: int


Loss = Callable[[int], tuple[Tensor, dict[str, float]]]


def claim(folder: Path, facts: dict[str, Any]) -> None:
    """Write the facts that define a run into its folder, before its first step.

    Raises:
        SmoothgateError: code `other_recipe`: the folder holds a run with other facts.
    """
    note, text = folder / "recipe.json", json.dumps(facts, indent=2) + "\n"
    if note.exists() and note.read_text() != text:
        raise SmoothgateError(
            f"{folder} holds a run with another model, start or recipe. Resume it with the same options, or "
            "name another folder.",
            code="other_recipe",
        )
    folder.mkdir(parents=True, exist_ok=True)
    note.write_text(text)


def train(
    name: str,
    module: nn.Module,
    loss: Loss,
    schedule: Schedule,
    folder: Path,
    *,
    ema: float | None = 0.998,
    muon: str = r"layers.*\.weight$",
    held_out: HeldOut | None = None,
    samples: int | None = None,
    save_every: int = 250,
) -> None:
    """Train a module in place. It is left with its averaged weights, of the best step if `held_out` is given.

    The data of a batch must be a function of only the batch's number (`seeded`). Then a run that was
    interrupted and resumed from `folder/NAME.ckpt` gives the same weights as one that was not.

    Args:
        name: name of the stage, for the progress bar and the files `NAME.ckpt` and `NAME.csv`.
        module: everything that is trained.
        loss: number of the batch, `step * schedule.accumulate + i` -> (loss, figures to show).
        schedule: steps and learning rates.
        folder: gets the checkpoint and the log.
        ema: decay of the weight average, or None for the last weights.
        muon: pattern of the names of the matrices and kernels that Muon updates. AdamW updates the rest.
        held_out: early stopping, or None.
        samples: number of samples in a batch, to show the throughput in samples. None shows it in steps.
        save_every: number of steps between two checkpoints.

    Raises:
        FloatingPointError: the loss is not finite.
    """
    folder.mkdir(parents=True, exist_ok=True)
    run = _Run(module, schedule, folder / f"{name}.ckpt", ema, muon)
    run.resume()
    per_step, unit = ((samples or 1) * schedule.accumulate, "samples/s") if samples else (1, "steps/s")
    with (
        progress("{task.fields[rate]}") as bar,
        (folder / f"{name}.csv").open("a", newline="") as log,
    ):
        rows = csv.writer(log)
        task = bar.add_task(name, total=schedule.steps, completed=run.step, rate="")
        while run.step < schedule.steps and not run.stopped:
            value, figures = run.update(loss)
            bar.advance(task)
            if run.step % _LOG_EVERY == 1:
                figures = {"loss": value, **figures}
                shown = " ".join(f"{key} {number:.3f}" for key, number in figures.items())
                speed = bar.tasks[task].speed
                rate = f"{speed * per_step:.1f} {unit}" if speed else ""
                bar.update(task, description=f"{name}: {shown}", rate=rate)
                rows.writerow(
                    [run.step - 1, *(f"{key}={number:.5f}" for key, number in figures.items()), rate]
                )
                log.flush()
            if held_out is not None and run.step % held_out.every == 0:
                measured = run.measure(held_out)
                rows.writerow([run.step - 1, f"held_out={measured:.5f}"])
            if run.step % save_every == 0:
                run.save()
        if held_out is not None and run.measured_at != run.step:
            rows.writerow([run.step - 1, f"held_out={run.measure(held_out):.5f}"])
    run.save()
    run.leave_averaged()


class _Run:
    """The state of one stage, which its checkpoint holds, and its updates."""

    def __init__(
        self, module: nn.Module, schedule: Schedule, checkpoint: Path, ema: float | None, muon: str
    ) -> None:
        self.module = module
        self.schedule = schedule
        self.checkpoint = checkpoint
        self.ema = ema
        matrices: list[Tensor] = []
        self.others: list[Tensor] = []
        for key, p in module.named_parameters():
            if p.requires_grad:
                (matrices if p.ndim >= 2 and re.search(muon, key) else self.others).append(p)
        self.optimisers: list[Optimizer] = [
            AdamW(self.others, schedule.adam_lr, betas=(0.9, 0.98), weight_decay=0.01)
        ]
        if matrices:
            self.optimisers.append(Muon(matrices, schedule.muon_lr))
        self.base = [group["lr"] for o in self.optimisers for group in o.param_groups]
        self.average = _copy(module)
        self.best: dict[str, Tensor] | None = None
        self.best_measured = math.inf
        self.misses = 0
        self.measured_at = 0
        self.stopped = False
        self.step = 0

    def resume(self) -> None:
        """Continue from the checkpoint, if there is one."""
        if not self.checkpoint.exists():
            return
        saved = torch.load(self.checkpoint, weights_only=True)
        self.module.load_state_dict(saved["module"])
        for name in _STATE:
            setattr(self, name, saved[name])
        for o, state in zip(self.optimisers, saved["optimisers"], strict=True):
            o.load_state_dict(state)

    def save(self) -> None:
        """Write the checkpoint. If this is interrupted, the old checkpoint stays."""
        state: dict[str, Any] = {name: getattr(self, name) for name in _STATE}
        state["module"] = self.module.state_dict()
        state["optimisers"] = [o.state_dict() for o in self.optimisers]
        partial = self.checkpoint.with_suffix(".tmp")
        torch.save(state, partial)
        partial.replace(self.checkpoint)

    def update(self, loss: Loss) -> tuple[float, dict[str, float]]:
        """Make one step. Returns the loss and the figures to show."""
        factor, parts = self.schedule.factor(self.step), self.schedule.accumulate
        groups = [group for o in self.optimisers for group in o.param_groups]
        for group, lr in zip(groups, self.base, strict=True):
            group["lr"] = lr * factor
        total = 0.0
        figures: dict[str, float] = {}
        for part in range(parts):
            value, figures = loss(self.step * parts + part)
            if not math.isfinite(shown := float(value.detach())):
                raise FloatingPointError(f"{self.checkpoint.stem}: the loss is {shown} at step {self.step}")
            torch.autograd.backward(value / parts)
            total += shown / parts
        nn.utils.clip_grad_norm_(self.others, 1.0)
        for o in self.optimisers:
            o.step()
            o.zero_grad(set_to_none=True)
        if self.ema is not None:
            decay = min(self.ema, (self.step + 1) / (self.step + 10))
            with torch.no_grad():
                for key, current in self.module.state_dict().items():
                    if current.is_floating_point():
                        self.average[key].lerp_(current, 1 - decay)
                    else:
                        self.average[key].copy_(current)
        self.step += 1
        return total, figures

    @torch.no_grad()
    def measure(self, held_out: HeldOut) -> float:
        """The held-out loss of the averaged weights. Records whether it is the best and whether to stop."""
        current = _copy(self.module)
        if self.ema is not None:
            self.module.load_state_dict(self.average)
        measured = held_out.measure()
        self.measured_at = self.step
        if measured < self.best_measured:
            self.best_measured, self.best, self.misses = measured, _copy(self.module), 0
        else:
            self.misses += 1
        self.module.load_state_dict(current)
        self.stopped = self.misses >= held_out.patience
        return measured

    def leave_averaged(self) -> None:
        """Load the weights of the best measurement into the module, or the averaged weights without one."""
        if self.best is not None:
            self.module.load_state_dict(self.best)
        elif self.ema is not None:
            self.module.load_state_dict(self.average)


@contextmanager
def bfloat16(device: str, *, enabled: bool) -> Iterator[None]:
    """Within it, forward passes on a type of device compute in bfloat16, if enabled."""
    with torch.autocast(device, torch.bfloat16, enabled=enabled):
        if enabled and device == "cpu":
            # The backward pass of the fused attention is four times as slow in bfloat16 as in float32.
            with sdpa_kernel(SDPBackend.MATH):
                yield
        else:
            yield


def _copy(module: nn.Module) -> dict[str, Tensor]:
    return {key: value.detach().clone() for key, value in module.state_dict().items()}


def seeded(seed: int, batch: int) -> torch.Generator:
    """The generator of one batch's data. It depends only on the run's seed and the batch's number."""
    return torch.Generator().manual_seed(seed * 1_000_003 + batch)

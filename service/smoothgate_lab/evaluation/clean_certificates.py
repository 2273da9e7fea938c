"""What is certified of clean pictures, and whether attacked ones refute it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from smoothgate.certify.betting import betting
from smoothgate.certify.fcsb import Point
from smoothgate.certify.statement import Terms, certify
from smoothgate.sampling.job import scores_against
from smoothgate_lab.evaluation.evaluation_plan import Cell, Defence, Plan
from smoothgate_lab.evaluation.victims import Smoothed, Victim
from smoothgate_lab.training_loop import seeded

_CHUNK = 128
# An attack may leave a picture as it is; certificates are of radii above 0.
_TINY = 1e-6


class CleanPictures:
    """The clean pictures of a plan as its defences serve them, computed once for each.

    Args:
        plan: says how many samples a certificate is made of, and at which radii.
        canvases: the pictures, (N, 3, H, W).
        victim: what a defence makes of a picture with the plan's `n_select` noisy copies.
    """

    def __init__(self, plan: Plan, canvases: Tensor, victim: Callable[[Defence], Victim]) -> None:
        self._plan = plan
        self._canvases = canvases
        self._victim = victim
        self._features: dict[tuple[str, int], Tensor] = {}
        self._scores: dict[tuple[str, int], _Scores] = {}

    def feature(self, defence: Defence, number: int) -> Tensor:
        """Unit feature (T * D,) of a picture, as this defence serves it."""
        key = (defence.name, number)
        if key not in self._features:
            gen = seeded(self._plan.seed_of(Cell(defence, None), number), 1)
            with torch.inference_mode():
                seen = self._victim(defence).see(self._canvases[number][None], gen)
            self._features[key] = seen.features[0]
        return self._features[key]

    def held_against(
        self, cell: Cell, picture: Tensor, l2: float, number: int
    ) -> tuple[dict[str, float] | None, bool]:
        """FCSB, and whether the picture that a cell shows refutes it.

        Args:
            cell: clean: the bound is given at the plan's radii; attacked: at the perturbation's l2 norm.
            picture: canvas (3, H, W) made from the clean one of that number.
            l2: of what was added.
            number: of the clean one.

        Returns:
            Bound by radius, None where nothing is certified; and whether the smoothed cosine is, with
            confidence 1 - alpha, below it.
        """
        plan, victim = self._plan, self._victim(cell.defence)
        if not isinstance(victim, Smoothed):
            return None, False
        if cell.attack is None:
            points = self._clean_scores(cell.defence, victim, number).bounds(plan, plan.radii)
            return {f"{p.eps:g}": p.value for p in points}, False
        # So far off, no scores give a bound that says anything; the rest need not draw theirs.
        best = _Scores([1.0] * plan.n_select, [1.0] * plan.n_certify)
        if best.bounds(plan, (max(l2, _TINY),))[0].value <= 0:
            return None, False
        (point,) = self._clean_scores(cell.defence, victim, number).bounds(plan, (max(l2, _TINY),))
        if point.value <= 0:
            return {f"{l2:.6g}": point.value}, False
        gen = seeded(plan.seed_of(cell, number), 2)
        scores = _draw(victim, picture, self.feature(cell.defence, number), plan.n_check, gen)
        upper = 2 * (1 - betting(1 - np.asarray(scores), plan.alpha)) - 1
        return {f"{l2:.6g}": point.value}, upper < point.value

    def _clean_scores(self, defence: Defence, victim: Smoothed, number: int) -> _Scores:
        """Fresh scores of a picture against its own feature."""
        key = (defence.name, number)
        if key not in self._scores:
            x, direction = self._canvases[number], self.feature(defence, number)
            seed = self._plan.seed_of(Cell(defence, None), number)
            self._scores[key] = _Scores(
                _draw(victim, x, direction, self._plan.n_select, seeded(seed, 3)),
                _draw(victim, x, direction, self._plan.n_certify, seeded(seed, 4)),
            )
        return self._scores[key]


@dataclass(frozen=True, slots=True)
class _Scores:
    """Of the noise samples of a clean picture: those that choose how to certify, and those that do."""

    selection: list[float]
    certification: list[float]

    def bounds(self, plan: Plan, radii: tuple[float, ...]) -> tuple[Point, ...]:
        """FCSB at l2 radii."""
        terms = Terms(sigma=plan.sigma, alpha=plan.alpha, eps=radii)
        return certify(terms, self.selection, self.certification).points


def _draw(victim: Smoothed, x: Tensor, t: Tensor, n: int, gen: torch.Generator) -> list[float]:
    """Scores of `n` noisy copies of a canvas (3, H, W) against the direction t."""
    found: list[float] = []
    for first in range(0, n, _CHUNK):
        with torch.inference_mode():
            units = victim.units(x[None], min(_CHUNK, n - first), gen)
        found += scores_against(t, units).tolist()
    return found

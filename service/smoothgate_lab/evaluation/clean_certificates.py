"""What is certified of clean pictures, and whether attacked ones refute it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from smoothgate.certify.betting import betting
from smoothgate.certify.fcsb import Point
from smoothgate.certify.statement import Terms, certify
from smoothgate_lab.evaluation.evaluation_plan import Cell, Defence, EvaluationPlan
from smoothgate_lab.evaluation.victims import SmoothedVictim, Victim
from smoothgate_lab.training_loop import seeded

# An attack may leave a picture as it is; certificates are of radii above 0.
_TINY = 1e-6


class CleanPictures:
    """The clean pictures of a plan as its defences serve them, computed once for each.

    Args:
        plan: says how many samples a certificate is made of, and at which radii.
        canvases: the pictures, (N, 3, H, W).
        victim: what a defence makes of a picture with the plan's `n_select` noisy copies.
    """

    def __init__(self, plan: EvaluationPlan, canvases: Tensor, victim: Callable[[Defence], Victim]) -> None:
        self._plan = plan
        self._canvases = canvases
        self._victim = victim
        self._features: dict[tuple[str, int], Tensor] = {}
        self._scores: dict[tuple[str, int], tuple[list[float], list[float]]] = {}

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
        if not isinstance(victim, SmoothedVictim):
            return None, False
        if cell.attack is None:
            points = self._points(plan.radii, *self._clean_scores(cell.defence, victim, number))
            return {f"{p.eps:g}": p.value for p in points}, False
        radius = (max(l2, _TINY),)
        # At this distance not even perfect scores give a bound that says anything, so none are drawn.
        (best,) = self._points(radius, [1.0] * plan.n_select, [1.0] * plan.n_certify)
        if best.value <= 0:
            return None, False
        (point,) = self._points(radius, *self._clean_scores(cell.defence, victim, number))
        if point.value <= 0:
            return {f"{l2:.6g}": point.value}, False
        gen = seeded(plan.seed_of(cell, number), 2)
        scores = victim.scores(picture, self.feature(cell.defence, number), plan.n_check, gen)
        upper = 2 * (1 - betting(1 - np.asarray(scores), plan.alpha)) - 1
        return {f"{l2:.6g}": point.value}, upper < point.value

    def _points(
        self, radii: tuple[float, ...], selection: list[float], certification: list[float]
    ) -> tuple[Point, ...]:
        """FCSB at l2 radii from the scores of both splits."""
        terms = Terms(sigma=self._plan.sigma, alpha=self._plan.alpha, eps=radii)
        return certify(terms, selection, certification).points

    def _clean_scores(
        self, defence: Defence, victim: SmoothedVictim, number: int
    ) -> tuple[list[float], list[float]]:
        """Fresh selection and certification scores of a picture against its own feature."""
        key = (defence.name, number)
        if key not in self._scores:
            x, direction = self._canvases[number], self.feature(defence, number)
            seed = self._plan.seed_of(Cell(defence, None), number)
            self._scores[key] = (
                victim.scores(x, direction, self._plan.n_select, seeded(seed, 3)),
                victim.scores(x, direction, self._plan.n_certify, seeded(seed, 4)),
            )
        return self._scores[key]

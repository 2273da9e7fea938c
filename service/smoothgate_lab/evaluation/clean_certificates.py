"""The certificates of clean pictures, and whether attacked pictures refute them."""

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

# An attack may leave a picture unchanged, but certificates have radii above 0.
_TINY = 1e-6


class CleanPictures:
    """The clean pictures of a plan as its defences serve them, computed once for each.

    Args:
        plan: gives the numbers of samples and the radii of certificates.
        canvases: (N, 3, H, W) pictures.
        victim: the encoder of a defence, with the plan's `n_select` noisy copies.
    """

    def __init__(self, plan: EvaluationPlan, canvases: Tensor, victim: Callable[[Defence], Victim]) -> None:
        self._plan = plan
        self._canvases = canvases
        self._victim = victim
        self._features: dict[tuple[str, int], Tensor] = {}
        self._scores: dict[tuple[str, int], tuple[list[float], list[float]]] = {}

    def feature(self, defence: Defence, number: int) -> Tensor:
        """Unit feature (T * D,) of a picture as the defence serves it."""
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
        """The FCSB of a clean picture, and whether the picture of a cell refutes it.

        Args:
            cell: gives the radii: the plan's for a clean cell, the perturbation's l2 norm for an attacked
                one.
            picture: canvas (3, H, W) that was made from the clean picture.
            l2: l2 norm of the perturbation.
            number: number of the clean picture.

        Returns:
            The bound by radius, or None if nothing is certified; and whether the smoothed cosine is below the
            bound with confidence 1 - alpha.
        """
        plan, victim = self._plan, self._victim(cell.defence)
        if not isinstance(victim, SmoothedVictim):
            return None, False
        if cell.attack is None:
            points = self._points(plan.radii, *self._clean_scores(cell.defence, victim, number))
            return {f"{p.eps:g}": p.value for p in points}, False
        radius = (max(l2, _TINY),)
        # If even perfect scores give a vacuous bound at this distance, no samples are drawn.
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
        """New selection and certification scores of a picture against its own feature."""
        key = (defence.name, number)
        if key not in self._scores:
            x, direction = self._canvases[number], self.feature(defence, number)
            seed = self._plan.seed_of(Cell(defence, None), number)
            self._scores[key] = (
                victim.scores(x, direction, self._plan.n_select, seeded(seed, 3)),
                victim.scores(x, direction, self._plan.n_certify, seeded(seed, 4)),
            )
        return self._scores[key]

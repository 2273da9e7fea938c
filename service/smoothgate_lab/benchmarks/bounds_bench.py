"""How tight the bounds are on scores of a known distribution: the figures of `smoothgate bench certify`.

Scores are Beta(0.97 * 200, 0.03 * 200), with mean 0.97 and standard deviation 0.012. alpha is 0.001. The
served bounds share it between everything that a certificate reports. Every other method has all of it.
Distances and radii are in units of sigma.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from scipy import optimize, special, stats

from smoothgate.certify import fcsb
from smoothgate.certify.alpha import COSINES
from smoothgate.certify.betting import betting
from smoothgate.certify.evidence import Established
from smoothgate.certify.layer_cake import Moments
from smoothgate.certify.scores import Array
from smoothgate.certify.statement import Target, Terms, evidence_for
from smoothgate.certify.stopping import StoppingRule
from smoothgate_lab.benchmarks.comparison_bounds import clopper_pearson, empirical_bernstein, hoeffding

SHAPE = (0.97 * 200, 0.03 * 200)
ALPHA = 1e-3
N_SELECT = 64
EPS = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0)
NUMBERS = (256, 1024, 4096)
COSINE = 0.5
#: The target whose certification ends the count of samples.
TARGET = Target(cosine=0.75, eps=0.5)

TERMS = Terms(sigma=1.0, alpha=ALPHA, eps=EPS, cosines=COSINES)

#: eps -> FCSB.
Bound = Callable[[float], float]


@dataclass(frozen=True, slots=True)
class BoundFigure:
    """One figure of the benchmark.

    Attributes:
        quantity: `fcsb`, `radius` (at a cosine), `radius_ratio` (served over the method's, at cosine 0.5),
            `samples` (until cosine 0.75 is certified at eps = 0.5) or `samples_ratio` (the method's over the
            served one's).
        method: `served`, `inner_product` (as served, with no part of alpha for the angle), `hoeffding`,
            `empirical_bernstein`, `betting` (the paper's bound with these bounds on the mean),
            `thresholds` (layer-cake bound by Clopper-Pearson at eight thresholds), `paper_limit`,
            `layer_cake_limit` (both bounds with infinitely many samples).
        n: certification samples, None for a limit or for `samples`.
        eps: in units of sigma, None for a radius.
        cosine: of a radius or a ratio of radii, else None.
        value: the figure, mean over the repeats.
        required: the least value that the figure should have, or None.
    """

    quantity: str
    method: str
    n: int | None
    eps: float | None
    cosine: float | None
    value: float
    required: float | None = None

    @property
    def met(self) -> bool | None:
        """Whether the requirement is met, or None without one."""
        return None if self.required is None else self.value >= self.required


#: (quantity, method, n, eps, cosine) -> the least value required. At cosine 0.7 it is what 1,024 samples
#: certified before there was an angular radius.
REQUIRED: dict[tuple[str, str, int | None, float | None, float | None], float] = {
    ("fcsb", "served", 1024, 1.0, None): 0.70,
    ("fcsb", "served", 1024, 1.5, None): 0.46,
    ("radius", "served", 1024, None, 0.5): 1.95,
    ("radius", "served", 1024, None, 0.8): 1.35,
    ("radius", "served", 1024, None, 0.9): 0.70,
    ("radius", "served", 256, None, 0.7): 1.18,
    ("radius_ratio", "hoeffding", 1024, None, COSINE): 2.1,
    ("radius_ratio", "betting", 4096, None, COSINE): 1.6,
    ("samples_ratio", "hoeffding", None, TARGET.eps, TARGET.cosine): 20.0,
}


def run(repeats: int = 5, seed: int = 0) -> list[dict[str, Any]]:
    """All figures, as dictionaries with the fields of `BoundFigure` and `met`. Takes a few seconds."""
    rows = _limits()
    for n in NUMBERS:
        draws = [_draw(n, seed + repeat) for repeat in range(repeats)]
        rows += _bounds(n, draws)
        rows += _radii(n, draws)
    rows += _samples(repeats, seed)
    marked = [BoundFigure(**(asdict(row) | {"required": REQUIRED.get(_key(row))})) for row in rows]
    return [asdict(row) | {"met": row.met} for row in marked]


def _key(row: BoundFigure) -> tuple[str, str, int | None, float | None, float | None]:
    return row.quantity, row.method, row.n, row.eps, row.cosine


def _bounds(n: int, draws: list[tuple[Array, Array]]) -> list[BoundFigure]:
    """The FCSB of every method by eps, mean over the draws."""
    methods = [_methods(selection, scores) for selection, scores in draws]
    return [
        BoundFigure("fcsb", name, n, eps, None, float(np.mean([method[name](eps) for method in methods])))
        for name in methods[0]
        for eps in EPS
    ]


def _radii(n: int, draws: list[tuple[Array, Array]]) -> list[BoundFigure]:
    """The radius of every method by cosine, mean over the draws, and what the served one gains."""
    rows = []
    for cosine in COSINES:
        every = [_radii_at(selection, scores, cosine) for selection, scores in draws]
        radii = {name: float(np.mean([each[name] for each in every])) for name in every[0]}
        rows += [BoundFigure("radius", name, n, None, cosine, radius) for name, radius in radii.items()]
        if cosine == COSINE:
            rows += [
                BoundFigure("radius_ratio", name, n, None, cosine, radii["served"] / radius)
                for name, radius in radii.items()
                if name != "served" and radius > 0.0
            ]
    return rows


def _radii_at(selection: Array, scores: Array, cosine: float) -> dict[str, float]:
    methods = _methods(selection, scores)
    radii = {name: _radius(bound, cosine) for name, bound in methods.items()}
    angular = _established(TERMS, selection, scores).angular[COSINES.index(cosine)].radius(1.0)
    return radii | {"served": max(radii["served"], angular or 0.0)}


def _draw(n: int, seed: int) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    return rng.beta(*SHAPE, N_SELECT), rng.beta(*SHAPE, n)


def _methods(selection: Array, scores: Array) -> dict[str, Bound]:
    """The FCSB of every method, from the same scores."""
    inner_product = replace(TERMS, cosines=())
    means = {
        "hoeffding": hoeffding(scores, ALPHA),
        "empirical_bernstein": empirical_bernstein(scores, ALPHA),
        "betting": betting(scores, ALPHA),
    }
    methods: dict[str, Bound] = {name: partial(_mean_bound, lower) for name, lower in means.items()}
    methods["thresholds"] = _thresholds(selection, scores)
    for name, terms in (("inner_product", inner_product), ("served", TERMS)):
        methods[name] = partial(_served, _established(terms, selection, scores).moments)
    return methods


def _established(terms: Terms, selection: Array, scores: Array) -> Established:
    evidence = evidence_for(terms, selection, scores.size)
    evidence.update(scores)
    return evidence.established


def _mean_bound(lower: float, eps: float) -> float:
    return fcsb.mean_bound(lower, eps, 1.0)


def _served(moments: Moments, eps: float) -> float:
    return fcsb.point(moments, eps, 1.0).value


def _thresholds(selection: Array, scores: Array) -> Bound:
    """The layer-cake bound from eight exact binomial bounds, with a union bound over thresholds."""
    quantiles = np.quantile(selection, [0.0, 0.05, 0.15, 0.3, 0.5, 0.7, 0.9])
    taus = np.concatenate([[2 * quantiles[0] - quantiles[1]], quantiles])
    lowers = np.array(
        [clopper_pearson(int((scores >= tau).sum()), scores.size, ALPHA / taus.size) for tau in taus]
    )
    widths = np.diff(taus, prepend=0.0)

    def bound(eps: float) -> float:
        return float(2.0 * widths @ special.ndtr(special.ndtri(lowers) - eps) - 1.0)

    return bound


def _limits() -> list[BoundFigure]:
    """The figures of both bounds with infinitely many samples."""
    mean = SHAPE[0] / sum(SHAPE)
    grid = np.linspace(0.0, 1.0, 20001)
    below = stats.beta.cdf((grid[1:] + grid[:-1]) / 2.0, *SHAPE)

    def layer_cake(eps: float) -> float:
        return float(2.0 * special.ndtr(-special.ndtri(below) - eps).mean() - 1.0)

    rows = []
    limits: dict[str, Bound] = {"paper_limit": partial(_mean_bound, mean), "layer_cake_limit": layer_cake}
    for name, bound in limits.items():
        rows += [BoundFigure("fcsb", name, None, eps, None, bound(eps)) for eps in EPS]
        rows += [
            BoundFigure("radius", name, None, None, cosine, _radius(bound, cosine)) for cosine in COSINES
        ]
    return rows


def _radius(bound: Bound, cosine: float) -> float:
    """The eps at which a bound falls below the cosine, or 0 if it never reaches the cosine."""
    if bound(0.0) < cosine:
        return 0.0
    return float(optimize.brentq(lambda eps: bound(eps) - cosine, 0.0, 20.0, xtol=1e-6))


def _samples(repeats: int, seed: int) -> list[BoundFigure]:
    """Samples until the target is certified, by the stopping rule and by Hoeffding at the true mean."""
    terms = Terms(sigma=1.0, alpha=ALPHA, eps=(TARGET.eps,), target=TARGET, cosines=COSINES)
    drawn = []
    for repeat in range(repeats):
        selection, scores = _draw(1 << 14, seed + repeat)
        rule = StoppingRule(terms, selection, scores.size)
        while rule.reason is None:
            rule.update(scores[rule.n : rule.next_look])
        drawn.append(rule.n)
    needed = special.ndtr(special.ndtri((1.0 + TARGET.cosine) / 2.0) + TARGET.eps)
    gap = SHAPE[0] / sum(SHAPE) - needed
    hoeffding = -np.log(ALPHA) / (2.0 * gap**2)
    served = float(np.mean(drawn))
    return [
        BoundFigure("samples", "served", None, TARGET.eps, TARGET.cosine, served),
        BoundFigure("samples", "hoeffding", None, TARGET.eps, TARGET.cosine, float(hoeffding)),
        BoundFigure("samples_ratio", "hoeffding", None, TARGET.eps, TARGET.cosine, float(hoeffding) / served),
    ]

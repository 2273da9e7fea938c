"""Certified accuracy of answers: tables, a plot and figures from the samples of `vote_samples`.

A scene counts at a radius if the answer is right and certified there (Cohen et al. 2019, section 4).
Abstentions count as wrong.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from statistics import mean, median
from typing import Any

from smoothgate.certify.votes import VoteCount, VoteTerms
from smoothgate.gate.answer_form import fold
from smoothgate_lab.evaluation.report import figure_svg, markdown_table
from smoothgate_lab.evaluation.shares import Share
from smoothgate_lab.evaluation.vote_samples import (
    ALPHA,
    BLOCK,
    N_SELECT,
    RADII,
    Block,
    SampledScene,
    most_samples,
    sampled_scenes,
    vote,
)

#: Radii of the tables.
TABLE_RADII = (*RADII, 1.25, 1.5, 2.0)
#: Radius of the sequential runs.
TARGET = 0.5


@dataclass(frozen=True, slots=True)
class AnsweredScene:
    """What one scene gave, for one question.

    Attributes:
        right: whether the answer that is sent is right.
        right_mean: whether the answer to the tokens of the mean direction is right.
        votes: share of the certification samples with the right answer.
        radius: certified by all n samples; None: abstained.
        generations: until the service's stopping rule ends a vote with `TARGET` and n, those of the selection
            split included.
        on_target: whether it ends because `TARGET` is certified.
    """

    right: bool
    right_mean: bool
    votes: float
    radius: float | None
    generations: int
    on_target: bool

    @classmethod
    def of(cls, scene: SampledScene, question: str, sigma: float) -> AnsweredScene:
        """From the samples of a scene."""
        right = fold(scene.right[question])
        candidates, statement = vote(scene.answers[question], sigma)
        fresh = [fold(text) for text in scene.answers[question][N_SELECT:]]
        sequential = VoteCount(VoteTerms(sigma, ALPHA, TARGET), candidates.votes, len(fresh))
        # One by one, as the service counts.
        for answer in fresh:
            if sequential.update(candidates.tally([answer])) is not None:
                break
        return cls(
            right=candidates.answer == right,
            right_mean=fold(scene.mean[question]) == right,
            votes=fresh.count(right) / len(fresh),
            radius=statement.radius,
            generations=N_SELECT + sequential.tally.n,
            on_target=sequential.reason == "certified",
        )

    def certified(self, radius: float) -> bool:
        """Whether the right answer is certified at a radius."""
        return self.right and self.radius is not None and self.radius >= radius


def figures(blocks: Sequence[Block]) -> dict[str, Any]:
    """The figures of all sigmas and questions, for n = `BLOCK` and for the largest n that any scene has.

    Returns:
        `alpha`, `n_select`, `target`; `samples`, `samples_per_second` (of one core); `rows`, one for each
        sigma, n and question: `sigma`, `n`, `question`, `scenes`, `right`, `right_mean` (from the mean
        direction), `votes` (mean share for the right answer), `abstained`, `certified` (radius -> share),
        `mean_radius` (0 for wrong answers and abstentions), `generations` (median), `on_target`, `fcsb`
        (radius -> mean bound on the cosine of features, n = `BLOCK`) and `radii` (of the right answers that
        are certified, ascending). Shares are `k`, `n`, `value` and `interval`.

    Raises:
        SmoothgateError: code `no_results`: there are no samples.
    """
    rows = []
    for sigma, most in most_samples(blocks).items():
        for n in sorted({BLOCK, most}):
            scenes = list(sampled_scenes(blocks, sigma, n))
            rows += [_row(scenes, sigma, n, question) for question in scenes[0].right]
    seconds = sum(block.seconds for block in blocks)
    samples = sum(len(next(iter(block.votes.values()))) for block in blocks)
    return {
        "alpha": ALPHA,
        "n_select": N_SELECT,
        "target": TARGET,
        "samples": samples,
        "samples_per_second": samples / seconds,
        "rows": rows,
    }


def _row(scenes: Sequence[SampledScene], sigma: float, n: int, question: str) -> dict[str, Any]:
    found = [AnsweredScene.of(scene, question, sigma) for scene in scenes]

    def share(those: Iterator[bool]) -> dict[str, Any]:
        counted = Share(sum(those), len(found))
        return asdict(counted) | {"value": counted.value, "interval": counted.interval()}

    radii = sorted(one.radius for one in found if one.right and one.radius is not None)
    return {
        "sigma": sigma,
        "n": n,
        "question": question,
        "scenes": len(found),
        "right": share(one.right for one in found),
        "right_mean": share(one.right_mean for one in found),
        "votes": mean(one.votes for one in found),
        "abstained": share(one.radius is None for one in found),
        "certified": {f"{r:g}": share(one.certified(r) for one in found) for r in TABLE_RADII},
        "mean_radius": sum(radii) / len(found),
        "generations": median(one.generations for one in found),
        "on_target": share(one.on_target for one in found),
        "fcsb": {name: mean(scene.fcsb[name] for scene in scenes) for name in scenes[0].fcsb},
        "radii": radii,
    }


def markdown(measured: dict[str, Any]) -> str:
    """The tables of `figures` in Markdown."""
    rows = measured["rows"]
    questions = list(dict.fromkeys(row["question"] for row in rows))
    parts = [
        markdown_table(
            f"{question}: share of scenes whose right answer is certified",
            ["sigma", "n", "scenes", *(f"l2 {r:g}" for r in TABLE_RADII), "mean radius", "abstained"],
            [
                [
                    f"{row['sigma']:g}",
                    f"{row['n']:,}",
                    str(row["scenes"]),
                    *(f"{each['value']:.1%}" for each in row["certified"].values()),
                    f"{row['mean_radius']:.2f}",
                    f"{row['abstained']['value']:.1%}",
                ]
                for row in rows
                if row["question"] == question
            ],
        )
        for question in questions
    ]
    parts.append(
        markdown_table(
            f"Right answers, and generations until l2 {TARGET:g} is decided",
            [
                *("question", "sigma", "n", "scenes", "right, by vote", "right, from the mean direction"),
                *("votes for the right one", "generations, median", f"certified at {TARGET:g}"),
            ],
            [
                [
                    row["question"],
                    f"{row['sigma']:g}",
                    f"{row['n']:,}",
                    str(row["scenes"]),
                    _with_interval(row["right"]),
                    _with_interval(row["right_mean"]),
                    f"{row['votes']:.1%}",
                    f"{row['generations']:g}",
                    f"{row['on_target']['value']:.1%}",
                ]
                for row in rows
            ],
        )
    )
    parts.append(
        markdown_table(
            f"What {BLOCK} samples say at a radius: of features, and of the answer ({questions[0]})",
            [
                *("sigma", "scenes", "radius", "cosine of features is at least (mean)"),
                "the right answer is certified",
            ],
            [
                [
                    f"{row['sigma']:g}",
                    str(row["scenes"]),
                    radius,
                    f"{bound:.3f}",
                    _with_interval(row["certified"][radius]),
                ]
                for row in rows
                if row["question"] == questions[0] and row["n"] == BLOCK
                for radius, bound in row["fcsb"].items()
            ],
        )
    )
    parts.append(
        f"{measured['samples']:,} noisy copies, each asked {len(questions)} questions: "
        f"{measured['samples_per_second']:.0f} a second and core. alpha {measured['alpha']:g}, "
        f"{measured['n_select']} selection samples."
    )
    return "\n\n".join(parts) + "\n"


def _with_interval(share: dict[str, Any]) -> str:
    return str(Share(share["k"], share["n"]))


def plot(measured: dict[str, Any]) -> str:
    """Certified accuracy against the radius as SVG, a panel for each question (needs matplotlib)."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    rows = measured["rows"]
    questions = list(dict.fromkeys(row["question"] for row in rows))
    figure = Figure(figsize=(3.4 * len(questions), 3.6), layout="constrained")
    FigureCanvasSVG(figure)
    panels = figure.subplots(1, len(questions), squeeze=False, sharey=True)[0]
    for panel, question in zip(panels, questions, strict=True):
        for row in (row for row in rows if row["question"] == question):
            radii, scenes = row["radii"], row["scenes"]
            # At radius r, the scenes count whose radius is at least r.
            at = [0.0, *radii, radii[-1] if radii else 0.0]
            shares = [*((len(radii) - i) / scenes for i in (0, *range(len(radii)))), 0.0]
            label = f"sigma {row['sigma']:g}, n = {row['n']:,}"
            panel.step(at, shares, where="pre", label=label, linewidth=1.2)
        panel.set(title=question, xlabel="l2 radius", ylim=(-0.03, 1.03))
    panels[0].set(ylabel="right and certified")
    panels[-1].legend(fontsize="x-small")
    return figure_svg(figure)

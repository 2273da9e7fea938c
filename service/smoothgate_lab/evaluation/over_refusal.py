"""Over-refusal: how many clean pictures end `abstained` at each radius that a policy may require.

Nobody attacks here. A service that enforces a policy refuses these requests. The samples are those of
`vote_samples`, and each vote ends by the service's own rule. The answer need not be right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from smoothgate.certify.votes import Candidates, VoteCount, VoteTerms, reachable
from smoothgate.gate.answer_form import fold
from smoothgate_lab.evaluation.report import markdown_table
from smoothgate_lab.evaluation.shares import Share
from smoothgate_lab.evaluation.vote_samples import (
    ALPHA,
    BLOCK,
    N_SELECT,
    RADII,
    Block,
    most_samples,
    sampled_scenes,
)

#: Certification samples of a request that names no number, as the service has them by default.
DEFAULT_BUDGET = 256


def figures(blocks: Sequence[Block]) -> dict[str, Any]:
    """The shares of all sigmas, budgets and questions.

    Args:
        blocks: samples of clean scenes. The budgets are `DEFAULT_BUDGET`, `BLOCK`, and the largest number of
            samples that any scene has.

    Returns:
        `alpha`, `n_select`, `radii`, and `rows` of `sigma`, `budget` (certification samples), `question`,
        `scenes` and `abstained`: radius -> share (`k`, `n`, `value`, `interval`), or None where the service
        refuses such a request at once, since the radius takes more samples even if all agree.

    Raises:
        SmoothgateError: code `no_results`: there are no samples.
    """
    rows = []
    for sigma, most in most_samples(blocks).items():
        for budget in sorted({DEFAULT_BUDGET, BLOCK, most}):
            scenes = list(sampled_scenes(blocks, sigma, budget))
            for question in scenes[0].right:
                largest = [largest_radius(scene.answers[question], sigma, budget) for scene in scenes]
                ended = {r: _share(largest, VoteTerms(sigma, ALPHA, r), budget) for r in RADII}
                rows.append(
                    {
                        "sigma": sigma,
                        "budget": budget,
                        "question": question,
                        "scenes": len(scenes),
                        "abstained": {f"{r:g}": share for r, share in ended.items()},
                    }
                )
    return {"alpha": ALPHA, "n_select": N_SELECT, "radii": list(RADII), "rows": rows}


def _share(largest: Sequence[float], terms: VoteTerms, budget: int) -> dict[str, Any] | None:
    assert terms.radius is not None  # noqa: S101
    if not reachable(terms, N_SELECT, budget):
        return None
    ended = Share(sum(radius < terms.radius for radius in largest), len(largest))
    return asdict(ended) | {"value": ended.value, "interval": ended.interval()}


def largest_radius(answers: Sequence[str], sigma: float, budget: int) -> float:
    """The largest radius that a vote may ask for and still be certified; 0 if there is none.

    The service looks after every vote and stops as soon as the wanted radius is certified. So it is the
    largest one that is certified after any number of votes.

    Args:
        answers: to the samples, `N_SELECT` of the selection split first.
        sigma: of the noise.
        budget: number of certification samples that are counted.

    Raises:
        ValueError: there are fewer samples.
    """
    fresh = answers[N_SELECT : N_SELECT + budget]
    if len(fresh) < budget:
        raise ValueError(f"there are fewer than {budget} certification samples")
    candidates = Candidates.of([fold(text) for text in answers[:N_SELECT]])
    count = VoteCount(VoteTerms(sigma, ALPHA), candidates.votes, budget)
    votes = [candidates.tally([fold(text)]) for text in fresh]
    largest = 0.0
    for vote, following in zip(votes, [*votes[1:], None], strict=True):
        count.update(vote)
        # A hit raises the radius: it is largest at the end of a row of hits.
        if vote.hits and not (following and following.hits):
            largest = max(largest, count.statement().radius or 0.0)
    return largest


def markdown(measured: dict[str, Any]) -> str:
    """The tables of `figures` in Markdown, one for each question."""
    rows = measured["rows"]
    parts = []
    for question in dict.fromkeys(row["question"] for row in rows):
        parts.append(
            markdown_table(
                f"{question}: clean scenes that end abstained, by the radius that a policy requires",
                ["sigma", "samples", "scenes", *(f"l2 {r:g}" for r in measured["radii"])],
                [
                    [
                        f"{row['sigma']:g}",
                        f"{row['budget']:,}",
                        str(row["scenes"]),
                        *(_cell(share) for share in row["abstained"].values()),
                    ]
                    for row in rows
                    if row["question"] == question
                ],
            )
        )
    parts.append(
        f"alpha {measured['alpha']:g}, {measured['n_select']} selection samples. -: the radius takes more "
        "samples even if all agree, and the service refuses such a request at once."
    )
    return "\n\n".join(parts) + "\n"


def _cell(share: dict[str, Any] | None) -> str:
    return "-" if share is None else str(Share(share["k"], share["n"]))

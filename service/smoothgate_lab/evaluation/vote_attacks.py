"""Attacks on votes: an attempt to refute certificates of answers, and what lies beyond their radius.

A picture whose answer A is certified within R is attacked in l2 balls of several multiples of R. The attack
is SmoothAdv (Salman et al. 2019, equation 6): PGD on the expected probability of A over noise, with fresh
noise at each step. Then A is counted in fresh samples at the attacked picture x'. sigma Phi^-1(p_A) is
1-Lipschitz in l2, so that inside and outside of R

    p_A(x')  >=  Phi(Phi^-1(p_low) - ||x' - x|| / sigma).                                                (1)

The right side is the *floor*. It is a half or more within sigma Phi^-1(p_low). The certificate is refuted
where the upper confidence bound on p_A(x') lies below the floor.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import SimpleQueue
from statistics import mean
from typing import Any

import torch
from scipy import special
from scipy.stats import binomtest

from smoothgate.certify.votes import VoteStatement
from smoothgate.gate.answer_form import fold
from smoothgate.sampling.draw import draw, generator_noise
from smoothgate_lab.chat_models.answerer import Answerer
from smoothgate_lab.chat_models.drafted_answers import DraftedAnswers
from smoothgate_lab.evaluation.attacks.objectives import away_from_vote
from smoothgate_lab.evaluation.attacks.pgd import pgd
from smoothgate_lab.evaluation.json_lines import appending, whole_lines
from smoothgate_lab.evaluation.report import figure_svg, markdown_table
from smoothgate_lab.evaluation.shares import Share
from smoothgate_lab.evaluation.threads import one_core_each
from smoothgate_lab.evaluation.victims import SmoothedVictim
from smoothgate_lab.evaluation.vote_samples import (
    BLOCK,
    VoteSamples,
    sampled_scenes,
    seed_of,
    vote,
)

# Of the confidence bound on the vote at an attacked picture, one-sided.
_CONFIDENCE = 0.999
_BATCH = 64


@dataclass(frozen=True, slots=True)
class AttackTerms:
    """How pictures are attacked.

    Attributes:
        sigma: of the noise.
        steps: of each attack.
        draws: noisy copies for each step.
        fresh: samples at each attacked picture.
        seed: of starts and noise.
    """

    sigma: float = 0.5
    steps: int = 20
    draws: int = 8
    fresh: int = 2048
    seed: int = 24


@dataclass(frozen=True, slots=True)
class CertifiedPicture:
    """A picture to attack.

    Attributes:
        scene: its number.
        answer: A, as the model writes it.
        statement: about A.
        radius: R.
    """

    scene: int
    answer: str
    statement: VoteStatement
    radius: float


@dataclass(frozen=True, slots=True)
class AttackedVote:
    """The vote at one attacked picture.

    Attributes:
        made_of: digest of all that determines the line.
        scene: number of the scene.
        factor: radius of the ball, in certified radii.
        seed: of start and noise.
        radius: certified one, R.
        before: share of A among the certification samples.
        l2: norm of the perturbation.
        hits: fresh samples that say A.
        rival: fresh samples that say the most frequent other answer.
        n: fresh samples.
        floor: right side of (1).
        upper: upper confidence bound on p_A, 99.9 %, one-sided.
    """

    made_of: str
    scene: int
    factor: float
    seed: int
    radius: float
    before: float
    l2: float
    hits: int
    rival: int
    n: int
    floor: float
    upper: float

    @property
    def refutes(self) -> bool:
        """Whether the certificate cannot be right."""
        return self.upper < self.floor

    @property
    def turned(self) -> bool:
        """Whether A is no longer the most frequent answer."""
        return self.rival >= self.hits


class VoteAttacks:
    """Attacks on the certified answers to the first question. Lines go to `attacks.jsonl`.

    Args:
        samples: give the certificates, from the first `BLOCK` samples of each scene.
        folder: of the samples.
        terms: how pictures are attacked.

    Attributes:
        terms: the same.
        question: the first one.
        made_of: digest of all that determines the attacks but for picture and radius.
    """

    def __init__(self, samples: VoteSamples, folder: Path, terms: AttackTerms) -> None:
        self.terms = terms
        self.question = samples.scenes.questions[0]
        self._samples = samples
        self._file = folder / "attacks.jsonl"
        parts = [samples.made_of, asdict(terms)]
        self.made_of = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
        self._victim = SmoothedVictim(samples.scenes.encoder, terms.sigma, terms.draws)
        self._own = threading.local()

    def pictures(self, scenes: int) -> list[CertifiedPicture]:
        """Those of the first scenes whose answer is certified, right or wrong, from stored samples."""
        found = []
        for scene in sampled_scenes(self._samples.blocks(), self.terms.sigma, BLOCK):
            answers = scene.answers[self.question.name]
            candidates, statement = vote(answers, self.terms.sigma)
            if scene.scene < scenes and statement.radius is not None:
                text = next(each for each in answers if fold(each) == candidates.answer)
                found.append(CertifiedPicture(scene.scene, text, statement, statement.radius))
        return found

    def lines(self) -> list[AttackedVote]:
        """What is stored for these terms, by factor and scene."""
        found = [AttackedVote(**line) for line in whole_lines(self._file)]
        mine = [line for line in found if line.made_of == self.made_of]
        return sorted(mine, key=lambda line: (line.factor, line.scene))

    def run(
        self, pictures: Sequence[CertifiedPicture], factors: Sequence[float], step: Callable[[], None]
    ) -> None:
        """Make the attacks that are missing, one per core.

        Args:
            pictures: to attack.
            factors: radii of the balls, in certified radii of the picture.
            step: called for each attack that is there.
        """
        done = {(line.scene, line.factor) for line in self.lines()}
        threads = torch.get_num_threads()
        spare = SimpleQueue[Answerer]()
        # transformers can load in only one thread at a time.
        for _ in range(threads):
            spare.put(Answerer(self._samples.scenes.model))

        def enter() -> None:
            self._own.answerer = spare.get()
            self._own.answers = DraftedAnswers(self._own.answerer, [self.question.phrasings[0]])

        with one_core_each(threads, enter) as pool, appending(self._file) as add:
            wanted = [(picture, factor) for factor in factors for picture in pictures]
            missing = [each for each in wanted if (each[0].scene, each[1]) not in done]
            for _ in range(len(wanted) - len(missing)):
                step()
            for line in pool.map(lambda each: self._attack(*each), missing):
                add(asdict(line))
                step()

    def _attack(self, picture: CertifiedPicture, factor: float) -> AttackedVote:
        terms = self.terms
        seed = seed_of(terms.seed, terms.sigma, picture.scene, factor)
        gen = torch.Generator().manual_seed(seed)
        x = self._samples.scenes.canvases[picture.scene]
        question = self.question.phrasings[0]
        loss = away_from_vote(self._victim, self._own.answerer, question, [picture.answer], gen)
        found = pgd(loss, x[None], "l2", factor * picture.radius, terms.steps, gen)[0]
        l2 = float((found - x).norm())
        answers: DraftedAnswers = self._own.answers
        answers.forget()
        counted: Counter[str] = Counter()
        with torch.inference_mode():
            units = self._samples.scenes.encoder.units
            noise = generator_noise(gen)
            for copies in draw(units, found, terms.sigma, noise, terms.fresh, batch=_BATCH):
                counted.update(map(fold, answers(self._samples.scenes.encoder.served(copies))[0]))
        hits = counted.pop(fold(picture.answer), 0)
        statement = picture.statement
        return AttackedVote(
            made_of=self.made_of,
            scene=picture.scene,
            factor=factor,
            seed=seed,
            radius=picture.radius,
            before=statement.tally.hits / statement.tally.n,
            l2=l2,
            hits=hits,
            rival=max(counted.values(), default=0),
            n=terms.fresh,
            floor=float(special.ndtr(special.ndtri(statement.p_low) - l2 / statement.terms.sigma)),
            upper=upper_bound(hits, terms.fresh),
        )


def upper_bound(hits: int, n: int) -> float:
    """The upper bound of Clopper and Pearson on a probability, one-sided, 99.9 %."""
    return float(binomtest(hits, n, alternative="less").proportion_ci(_CONFIDENCE, method="exact").high)


def figures(lines: Sequence[AttackedVote]) -> list[dict[str, Any]]:
    """One row for each factor, in ascending order.

    Returns:
        Rows of `factor`, `pictures`, `l2` (mean), `before` and `after` (mean share of A), `least` (smallest
        share of A), `least_upper` (its upper bound), `floor` (mean), `refuted` (count), `turned` (share of
        pictures whose most frequent answer is another one), `turned_interval` and `turned_count`.
    """
    rows = []
    for factor in sorted({line.factor for line in lines}):
        mine = [line for line in lines if line.factor == factor]
        least = min(mine, key=lambda line: line.hits / line.n)
        turned = Share(sum(line.turned for line in mine), len(mine))
        rows.append(
            {
                "factor": factor,
                "pictures": len(mine),
                "l2": mean(line.l2 for line in mine),
                "before": mean(line.before for line in mine),
                "after": mean(line.hits / line.n for line in mine),
                "least": least.hits / least.n,
                "least_upper": least.upper,
                "floor": mean(line.floor for line in mine),
                "refuted": sum(line.refutes for line in mine),
                "turned": turned.value,
                "turned_interval": turned.interval(),
                "turned_count": turned.k,
            }
        )
    return rows


def markdown(rows: Sequence[dict[str, Any]], terms: AttackTerms, question: str) -> str:
    """The table of `figures` in Markdown, with the name of the question."""
    heads = (
        "radius / certified",
        "pictures",
        "l2",
        "vote for A before",
        "after",
        "least",
        "floor, mean",
        "refuted",
        "another answer is first",
    )
    title = (
        f"Votes ({question}) under attack, sigma {terms.sigma:g}: {terms.steps} steps, {terms.draws} noisy "
        f"copies each, {terms.fresh:,} fresh samples"
    )
    listed = [
        [
            f"{row['factor']:g}",
            str(row["pictures"]),
            f"{row['l2']:.2f}",
            f"{row['before']:.1%}",
            f"{row['after']:.1%}",
            f"{row['least']:.1%}",
            f"{row['floor']:.1%}",
            str(row["refuted"]),
            str(Share(row["turned_count"], row["pictures"])),
        ]
        for row in rows
    ]
    return markdown_table(title, heads, listed) + "\n"


def plot(rows: Sequence[dict[str, Any]]) -> str:
    """The mean vote for A and the share of pictures with another first answer, as SVG (needs matplotlib)."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3.6), layout="constrained")
    FigureCanvasSVG(figure)
    panel = figure.subplots()
    at = [row["factor"] for row in rows]
    panel.plot(at, [row["after"] for row in rows], "o-", label="vote for A, mean")
    panel.plot(at, [row["floor"] for row in rows], "--", label="its floor, mean")
    panel.plot(at, [row["turned"] for row in rows], "s-", label="another answer is first")
    panel.axvline(1.0, color="grey", linestyle=":", linewidth=1)
    panel.set(xlabel="radius of the attack / certified radius", ylim=(-0.03, 1.03))
    panel.legend(fontsize="small")
    return figure_svg(figure)

"""Resubmission: an attacker who may send one picture several times, and keeps the best answer.

Each answer rests on noise. Three services are compared.

    fresh: every request is answered with new noise.
    repeated: the noise follows from the picture and a secret (`smoothgate.sampling.noise_seeds`), as the
        service does it. The same picture gets the same answer, however often it is sent.
    altered: the same service, and an attacker who changes one value of one pixel by one level of 255 before
        each further request. Every such picture has noise of its own.

The pictures are those of an evaluation (`robustness`), and the first answer of `fresh` is the one that the
evaluation stores.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import count
from typing import Any

import torch
from torch import Tensor

from smoothgate.errors import MalformedRequest
from smoothgate.sampling.draw import numbered_noise
from smoothgate.sampling.noise import GENERATOR
from smoothgate.sampling.noise_seeds import NoiseSeeds, canvas_digest
from smoothgate_lab.chat_models.answerer import answers
from smoothgate_lab.evaluation.evaluation_plan import Cell
from smoothgate_lab.evaluation.json_lines import appending, whole_lines
from smoothgate_lab.evaluation.report import ball, markdown_table
from smoothgate_lab.evaluation.robustness import Evaluation
from smoothgate_lab.evaluation.shares import Share
from smoothgate_lab.evaluation.victims import SmoothedVictim
from smoothgate_lab.training_loop import seeded

# The evaluation uses 0 to 5 for what it draws for a picture.
_FIRST_RESUBMISSION = 10
_LEVEL = 1 / 255


@dataclass(frozen=True, slots=True)
class Resubmitted:
    """The answers to one picture that was sent several times.

    Attributes:
        made_of: digest of all that determines the line.
        key: of the cell.
        defence, attack, setting, question, norm, eps: the cell. `attack` is `clean` if there is none.
        index: number of the picture.
        right: the right answer.
        wanted: the attacker's answer.
        fresh: the answers to the same picture, with new noise for each.
        altered: the answers of a service whose noise follows from the picture. The first picture is the
            attacked one, and each further one differs from it by one level in one value.
    """

    made_of: str
    key: str
    defence: str
    attack: str
    setting: str
    question: str
    norm: str | None
    eps: float
    index: int
    right: str
    wanted: str
    fresh: list[str]
    altered: list[str]


class Resubmission:
    """Sends the pictures of an evaluation several times.

    Args:
        evaluation: its folder gets `resubmitted.jsonl`.
        times: how often each picture is sent, at least 1.

    Raises:
        MalformedRequest: the plan has no smoothed defence.
    """

    def __init__(self, evaluation: Evaluation, times: int) -> None:
        self._evaluation = evaluation
        self._file = evaluation.folder / "resubmitted.jsonl"
        self.times = times
        #: The cells of smoothed defences. Without noise, sending again changes nothing.
        self.cells = [cell for cell in evaluation.plan.cells() if cell.defence.parts != "none"]
        if not self.cells:
            raise MalformedRequest("The plan has no smoothed defence.")
        secret = hashlib.sha256(f"resubmission {evaluation.plan.seed}".encode()).digest()
        self._seeds = NoiseSeeds(secret)

    def made_of(self, cell: Cell) -> str:
        """A digest of everything that determines a cell's lines."""
        parts = [self._evaluation.made_of(cell), self.times]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]

    def lines(self) -> list[Resubmitted]:
        """The lines that are stored, by cell and picture."""
        places = {self.made_of(cell): place for place, cell in enumerate(self.cells)}
        found = [Resubmitted(**line) for line in whole_lines(self._file)]
        mine = [line for line in found if line.made_of in places]
        return sorted(mine, key=lambda line: (places[line.made_of], line.index))

    def run(self, step: Callable[[Cell, int], None]) -> None:
        """Send what is missing. `step` is called with a cell and a number of pictures that are done."""
        done = {(line.made_of, line.index) for line in self.lines()}
        evaluation = self._evaluation
        with evaluation.threads() as pool, appending(self._file) as add:
            work = []
            for cell in self.cells:
                for numbers in evaluation.batches(cell):
                    missing = [i for i in numbers if (self.made_of(cell), i) not in done]
                    work.append((cell, numbers, pool.submit(self._batch, cell, numbers) if missing else None))
            for cell, numbers, future in work:
                for line in future.result() if future else []:
                    if (line.made_of, line.index) not in done:
                        add(asdict(line))
                step(cell, len(numbers))

    def _batch(self, cell: Cell, numbers: Sequence[int]) -> list[Resubmitted]:
        evaluation = self._evaluation
        scenes, plan, question = evaluation.scenes, evaluation.plan, evaluation.question(cell)
        victim = evaluation.victim(cell.defence, plan.n_select)
        assert isinstance(victim, SmoothedVictim)  # noqa: S101
        found = []
        for number, picture in zip(numbers, evaluation.pictures(cell, numbers), strict=True):
            seed = plan.seed_of(cell, number)
            changed = altered(picture, scenes.canvases[number], self.times, seed)
            with torch.inference_mode():
                fresh = [self._with_fresh_noise(victim, picture, seed, time) for time in range(self.times)]
                own = [self._with_its_own_noise(victim, cell, each) for each in changed]
            given = answers(evaluation.answerer, question.phrasings[0], torch.stack(fresh + own))
            found.append(
                Resubmitted(
                    made_of=self.made_of(cell),
                    key=cell.key,
                    defence=cell.defence.name,
                    attack=cell.attack.name if cell.attack else "clean",
                    setting=cell.attack.setting if cell.attack else "clean",
                    question=question.name,
                    norm=cell.norm,
                    eps=cell.eps,
                    index=number,
                    right=question.answer(scenes.facts[number]),
                    wanted=question.answer(scenes.twin_facts[number]),
                    fresh=given[: self.times],
                    altered=given[self.times :],
                )
            )
        return found

    def _with_fresh_noise(self, victim: SmoothedVictim, x: Tensor, seed: int, time: int) -> Tensor:
        """Visual tokens (T, D). The first time has the noise of the evaluation's own line."""
        gen = seeded(seed, 1 if time == 0 else _FIRST_RESUBMISSION + time)
        return victim.see(x[None], gen).tokens[0]

    def _with_its_own_noise(self, victim: SmoothedVictim, cell: Cell, x: Tensor) -> Tensor:
        """Visual tokens (T, D) with the noise that follows from the picture and the secret."""
        encoder = self._evaluation.encoder(cell.defence)
        seed = self._seeds.seed(canvas_digest(x, ()), encoder.digest, 0)
        return victim.see_with(x, numbered_noise(GENERATOR, seed, count()))


def altered(picture: Tensor, clean: Tensor, times: int, seed: int) -> list[Tensor]:
    """The picture itself, then pictures that differ from it by one level of 255 in one value each.

    The value moves towards the clean picture, or towards grey where both are the same. So it stays in [0, 1],
    and in an l_inf ball of one level or more.

    Args:
        picture: (3, H, W) in [0, 1].
        clean: (3, H, W), the picture that was attacked.
        times: number of pictures, the first one included. At most one for each value.
        seed: chooses the values.
    """
    found = [picture]
    gen = seeded(seed, _FIRST_RESUBMISSION)
    for place in torch.randperm(picture.numel(), generator=gen)[: times - 1].tolist():
        changed = picture.flatten().clone()
        now, before = float(changed[place]), float(clean.flatten()[place])
        towards = before if before != now else 0.5
        changed[place] = now + (_LEVEL if towards > now else -_LEVEL)
        found.append(changed.view_as(picture))
    return found


def figures(lines: Sequence[Resubmitted]) -> list[dict[str, Any]]:
    """One row for each cell.

    Returns:
        Rows of `defence`, `attack`, `setting`, `question`, `norm`, `eps`, `n` (pictures), `times`, `hits`
        (shares of pictures with the attacker's answer) and `wrong` (shares with an answer that is not
        right). Both have `once` (fresh noise, one request), `fresh` (any of all requests), `repeated` (noise
        that follows from the picture, which stays the same) and `altered` (any of all requests). Shares are
        `k`, `n`, `value` and `interval`.
    """
    cells: dict[str, list[Resubmitted]] = {}
    for line in lines:
        cells.setdefault(line.key, []).append(line)
    rows = []
    for mine in cells.values():
        first = mine[0]
        row: dict[str, Any] = {
            name: getattr(first, name) for name in ("defence", "attack", "setting", "question", "norm", "eps")
        }
        row |= {"n": len(mine), "times": len(first.fresh)}
        row["hits"] = _shares(mine, lambda line, answer: answer == line.wanted)
        row["wrong"] = _shares(mine, lambda line, answer: answer != line.right)
        rows.append(row)
    return rows


def _shares(
    lines: Sequence[Resubmitted], counts: Callable[[Resubmitted, str], bool]
) -> dict[str, dict[str, Any]]:
    found = {
        "once": [counts(line, line.fresh[0]) for line in lines],
        "fresh": [any(counts(line, answer) for answer in line.fresh) for line in lines],
        "repeated": [counts(line, line.altered[0]) for line in lines],
        "altered": [any(counts(line, answer) for answer in line.altered) for line in lines],
    }
    shares = {name: Share(sum(each), len(each)) for name, each in found.items()}
    return {
        name: asdict(share) | {"value": share.value, "interval": share.interval()}
        for name, share in shares.items()
    }


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """The tables of `figures` in Markdown: the attacker's answer, then any wrong one."""
    if not rows:
        return ""
    times = rows[0]["times"]
    heads = [
        "defence",
        "attack",
        "ball",
        "n",
        "sent once",
        f"{times} times, fresh noise",
        "noise of the picture: any number of times",
        f"the same, one level changed: {times} times",
    ]
    parts = []
    for kind, title in (("hits", "The attacker's answer"), ("wrong", "A wrong answer")):
        listed = []
        for row in rows:
            attack = row["attack"] if row["attack"] == "clean" else f"{row['attack']}, {row['setting']}"
            shares = [str(Share(share["k"], share["n"])) for share in row[kind].values()]
            listed.append([row["defence"], attack, ball(row) if row["norm"] else "-", str(row["n"]), *shares])
        parts.append(markdown_table(f"{title}, at least once", heads, listed))
    return "\n\n".join(parts) + "\n"

"""What noisy copies of held-out pictures are answered: samples behind certified accuracy, stored as lines.

A scene's samples are numbered, for each sigma anew: first those of the selection split, then those of the
certification split. They come in blocks. A block is a line of JSON, and its noise follows from the seed, the
sigma, the scene and the block alone. So a run goes on where it was stopped, and a larger n only adds blocks.
All questions are asked about the same noisy copies.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import SimpleQueue

import torch
from torch import Tensor

from smoothgate.certify.statement import Terms, certify
from smoothgate.certify.votes import Candidates, VoteCount, VoteStatement, VoteTerms
from smoothgate.errors import SmoothgateError
from smoothgate.gate.answer_form import fold
from smoothgate.sampling.draw import draw, generator_noise
from smoothgate.sampling.selection import scores_against, select
from smoothgate_lab.chat_models.answerer import Answerer
from smoothgate_lab.chat_models.drafted_answers import DraftedAnswers
from smoothgate_lab.evaluation.asked_scenes import AskedScenes
from smoothgate_lab.evaluation.json_lines import appending, whole_lines
from smoothgate_lab.evaluation.threads import one_core_each

#: Selection samples, as the service has them by default.
N_SELECT = 16
#: Certification samples of a block.
BLOCK = 512
#: Samples whose mean direction is served where features are certified, as the service has them by default.
N_MEAN = 128
#: Radii at which the first block bounds the cosine of features.
RADII = (0.25, 0.5, 0.75, 1.0)
ALPHA = 0.001

_BATCH = 64


@dataclass(frozen=True, slots=True)
class Block:
    """Consecutive samples of a scene.

    Attributes:
        made_of: digest of the model, the PSM and all that determines the samples.
        seed: of the noise.
        sigma: of the noise.
        scene: number of the scene.
        block: number of the block. Block 0 has the selection samples too.
        right: the right answer to each question.
        answers: question -> the different answers of this block, in the order they came.
        votes: question -> for each sample, the place of its answer in `answers`.
        mean: question -> the answer to the tokens of the mean direction of `N_MEAN` samples. Block 0 only.
        fcsb: radius -> bound on the cosine from this block's scores, n = `BLOCK`. Block 0 only.
        seconds: of one core that the block took.
    """

    made_of: str
    seed: int
    sigma: float
    scene: int
    block: int
    right: dict[str, str]
    answers: dict[str, list[str]]
    votes: dict[str, list[int]]
    mean: dict[str, str] | None
    fcsb: dict[str, float] | None
    seconds: float


class VoteSamples:
    """Samples in a folder.

    Args:
        folder: gets `votes.jsonl`.
        seed: of the noise.
        scenes: what is asked.

    Attributes:
        scenes: the same.
        made_of: digest of all that determines the samples but for sigma, scene and block.
    """

    def __init__(self, folder: Path, seed: int, scenes: AskedScenes) -> None:
        self._seed = seed
        self._file = folder / "votes.jsonl"
        self.scenes = scenes
        weights = (scenes.model / "model.safetensors").read_bytes()
        names = [q.name for q in scenes.questions]
        numbers = (seed, len(scenes.canvases), N_SELECT, BLOCK, names)
        parts = [hashlib.sha256(weights).hexdigest(), scenes.encoder.digest, numbers]
        if scenes.pictures:
            parts.append(scenes.pictures)
        self.made_of = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
        self._own = threading.local()
        folder.mkdir(parents=True, exist_ok=True)

    def blocks(self) -> list[Block]:
        """The blocks that are stored for this seed, model and PSM, by sigma, scene and number."""
        found = [Block(**line) for line in whole_lines(self._file)]
        mine = [block for block in found if block.made_of == self.made_of]
        return sorted(mine, key=lambda block: (block.sigma, block.scene, block.block))

    def run(self, sigmas: Sequence[float], scenes: int, n: int, step: Callable[[float, int], None]) -> None:
        """Draw the blocks that are missing, scene by scene, one per core.

        Args:
            sigmas: in the order they are wanted.
            scenes: number of scenes, from the first.
            n: certification samples per scene and sigma, rounded up to whole blocks.
            step: called with sigma and the number of further blocks that are there.
        """
        done = {(block.sigma, block.scene, block.block) for block in self.blocks()}
        threads = torch.get_num_threads()
        spare = SimpleQueue[DraftedAnswers]()
        asked = [q.phrasings[0] for q in self.scenes.questions]
        # transformers can load in only one thread at a time.
        for _ in range(threads):
            spare.put(DraftedAnswers(Answerer(self.scenes.model), asked))

        def enter() -> None:
            self._own.answers = spare.get()

        wanted = range(-(-n // BLOCK))
        with one_core_each(threads, enter) as pool, appending(self._file) as add:
            work = []
            for sigma in sigmas:
                for scene in range(scenes):
                    missing = [number for number in wanted if (sigma, scene, number) not in done]
                    step(sigma, len(wanted) - len(missing))
                    work += [(sigma, pool.submit(self._draw, sigma, scene, number)) for number in missing]
            for sigma, future in work:
                add(asdict(future.result()))
                step(sigma, 1)

    @torch.inference_mode()
    def _draw(self, sigma: float, scene: int, number: int) -> Block:
        began = time.thread_time()
        seed = seed_of(self._seed, sigma, scene, number)
        noise = generator_noise(torch.Generator().manual_seed(seed))
        x = self.scenes.canvases[scene]
        encoder, questions = self.scenes.encoder, self.scenes.questions

        def drawn(n: int) -> Tensor:
            return torch.cat(list(draw(encoder.units, x, sigma, noise, n, batch=_BATCH)))

        parts = [drawn(N_SELECT), drawn(BLOCK)] if number == 0 else [drawn(BLOCK)]
        asker: DraftedAnswers = self._own.answers
        asker.forget()
        told: list[list[str]] = [[] for _ in questions]
        for units in (batch for part in parts for batch in torch.split(part, _BATCH)):
            for texts, more in zip(told, asker(encoder.served(units)), strict=True):
                texts += more
        mean = fcsb = None
        if number == 0:
            direction, scores = select([parts[0]])
            statement = certify(
                Terms(sigma=sigma, alpha=ALPHA, eps=RADII), scores, scores_against(direction, [parts[1]])
            )
            fcsb = {f"{point.eps:g}": point.value for point in statement.points}
            served, _ = select([torch.cat(parts)[:N_MEAN]])
            answers = asker(encoder.served(served[None]))
            mean = {q.name: texts[0] for q, texts in zip(questions, answers, strict=True)}
        kinds = [list(dict.fromkeys(texts)) for texts in told]
        places = [{text: place for place, text in enumerate(each)} for each in kinds]
        names = [q.name for q in questions]
        return Block(
            made_of=self.made_of,
            seed=seed,
            sigma=sigma,
            scene=scene,
            block=number,
            right=self.scenes.right[scene],
            answers=dict(zip(names, kinds, strict=True)),
            votes={
                name: [place[text] for text in texts]
                for name, place, texts in zip(names, places, told, strict=True)
            },
            mean=mean,
            fcsb=fcsb,
            seconds=round(time.thread_time() - began, 2),
        )


@dataclass(frozen=True, slots=True)
class SampledScene:
    """All samples of a scene at one sigma, in order. Attributes as of `Block`."""

    scene: int
    right: dict[str, str]
    answers: dict[str, list[str]]
    mean: dict[str, str]
    fcsb: dict[str, float]


def most_samples(blocks: Sequence[Block]) -> dict[float, int]:
    """The largest number of certification samples that any scene has, for each sigma in ascending order.

    Raises:
        SmoothgateError: code `no_results`: there are no samples.
    """
    if not blocks:
        raise SmoothgateError("There are no samples of this seed, model and PSM.", code="no_results")
    most: dict[float, int] = defaultdict(int)
    for block in sorted(blocks, key=lambda block: block.sigma):
        most[block.sigma] = max(most[block.sigma], BLOCK * (1 + block.block))
    return dict(most)


def sampled_scenes(blocks: Sequence[Block], sigma: float, n: int) -> Iterator[SampledScene]:
    """The scenes that have at least n certification samples at a sigma, with n of them.

    `answers` has the answer to each sample: `N_SELECT` of the selection split, then n.
    """
    by_scene: dict[int, list[Block]] = defaultdict(list)
    for block in blocks:
        # A run draws the blocks of a scene in order, so that none is missing before the last.
        if block.sigma == sigma and block.block * BLOCK < n:
            by_scene[block.scene].append(block)
    for scene, consecutive in by_scene.items():
        if len(consecutive) * BLOCK < n:
            continue
        first = consecutive[0]
        assert first.mean is not None and first.fcsb is not None  # noqa: S101, PT018
        answers = {
            name: [b.answers[name][place] for b in consecutive for place in b.votes[name]][: N_SELECT + n]
            for name in first.right
        }
        yield SampledScene(scene, first.right, answers, first.mean, first.fcsb)


def seed_of(*facts: float) -> int:
    """The seed of what these numbers name."""
    text = " ".join(map(str, facts))
    return int(hashlib.sha256(text.encode()).hexdigest()[:12], 16)


def vote(answers: Sequence[str], sigma: float) -> tuple[Candidates[str], VoteStatement]:
    """What answers to samples (`N_SELECT` of the selection split first) certify, compared as free text is."""
    folded = [fold(text) for text in answers]
    candidates = Candidates.of(folded[:N_SELECT])
    count = VoteCount(VoteTerms(sigma, ALPHA), candidates.votes, len(folded) - N_SELECT)
    count.update(candidates.tally(folded[N_SELECT:]))
    return candidates, count.statement()

"""Adversarial fine-tuning of the demo's purifier and mapper on answers. It is our extension.

It trains the PSM as TeCoA trains a tower (`hardening`), through the frozen tower and language model. Each
picture gets two noises, and the language model sees their mean, as in serving, or each by itself, as in a
vote. The losses that train a
PSM are added to the answer's cross-entropy, so that certificates keep their scores.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from smoothgate.bundled import DEMO
from smoothgate.errors import SmoothgateError
from smoothgate.psm.mapper import ResidualMapper
from smoothgate.psm.unit_encoder import UnitEncoder
from smoothgate_lab.chat_models.answerer import Answerer
from smoothgate_lab.chat_models.chats import Question
from smoothgate_lab.demo import scenes
from smoothgate_lab.demo.conversation import ONE_PICTURE, Facts
from smoothgate_lab.demo.scene_stream import labelled_drawings
from smoothgate_lab.demo.scenes import load_digits
from smoothgate_lab.evaluation.attacks.pgd import Norm, pgd
from smoothgate_lab.psm_training import losses
from smoothgate_lab.psm_training.attacks_through_noise import L2, L_INF, LEAST_SIGMA, SHARE_CLEAN, SHARE_L_INF
from smoothgate_lab.psm_training.noise_pairs import noise_pairs
from smoothgate_lab.psm_training.stages import MUON, Recipe, joint_loss
from smoothgate_lab.training_loop import Schedule, claim, seeded, train

_PICTURES = 16
_GREY = 4
_PGD_STEPS = 3
# Share of the attacked pictures that have a target. The others are pushed away from the right answer.
_SHARE_TARGETED = 0.5
# Weights of attacked and other answers, and the largest loss of an answer that counts.
_ATTACKED, _UNATTACKED, _HOPELESS = 1.5, 0.5, 12.0


class AnswerTuning:
    """One fine-tuning, in place.

    Args:
        encoder: the demo model's, with the PSM to tune.
        seed: seed of pictures, noise and attacks.
        votes: whether each noise is answered by itself and no picture is attacked. It is what
            `vote_tuning` is compared with, which knows no right answers.
    """

    def __init__(self, encoder: UnitEncoder, seed: int, *, votes: bool = False) -> None:
        self.encoder = encoder
        self.seed = seed
        self.votes = votes
        self.answerer = Answerer(DEMO.model)
        self.answerer.model.requires_grad_(False)
        self._digits = load_digits("train")
        self._recipe = Recipe()

    def run(self, folder: Path, schedule: Schedule, save_every: int = 100) -> None:
        """Train with checkpoints in a folder. A run that finds its own files there resumes where it stopped.

        Raises:
            SmoothgateError: code `nothing_to_train`: the PSM has no weights; `other_recipe`: the folder holds
                a run from another PSM, or with another seed or schedule.
        """
        psm = self.encoder.psm
        if psm.is_identity:
            raise SmoothgateError("This PSM has no weights that could be tuned.", code="nothing_to_train")
        facts = {"from": psm.digest, "seed": self.seed, **asdict(schedule)}
        if self.votes:
            facts["votes"] = True
        claim(folder, facts)
        psm.train().requires_grad_(True)
        train(
            "answers",
            psm,
            self.loss,
            schedule,
            folder,
            ema=0.995,
            muon=MUON,
            samples=2 * _PICTURES,
            save_every=save_every,
        )
        psm.eval().requires_grad_(False)
        psm.training_facts |= {"tuned_on_answers": facts}

    def loss(self, batch: int) -> tuple[Tensor, dict[str, float]]:
        """The loss of one batch of new scenes, each followed by its twin with another digit."""
        gen = seeded(self.seed, batch)
        x, facts = self._scenes(gen)
        # Every other batch asks for the digit, which depends on few pixels.
        question = ONE_PICTURE[batch // 2 % len(ONE_PICTURE)] if batch % 2 else ONE_PICTURE[0]
        right = [question.answer(each) for each in facts]
        sigma = self._levels(gen)
        attacked = (torch.rand(len(x), generator=gen) > SHARE_CLEAN) & (sigma >= LEAST_SIGMA)
        attacked &= not self.votes
        shown = x.clone()
        if attacked.any():
            shown[attacked] = self._attack(x, sigma, attacked, question, right, gen)

        encoder = self.encoder
        z, levels = noise_pairs(shown, sigma, gen)
        with torch.no_grad():
            once = encoder.adapter.tokens(x).float()
            clean = encoder.unit(once).repeat(2, 1)
        purified = encoder.purified(z, levels)
        units = encoder.unit(encoder.psm.mapper(encoder.adapter.tokens(purified).float(), levels))
        if self.votes:
            wrong = self.answerer.cross_entropy(question.phrasings[0], right * 2, encoder.served(units))
            answers = wrong.clamp(max=_HOPELESS)
        else:
            wrong = self.answerer.cross_entropy(question.phrasings[0], right, self._served(units))
            answers = torch.where(attacked, _ATTACKED, _UNATTACKED) * wrong.clamp(max=_HOPELESS)

        r = self._recipe
        canvases = x.repeat(2, 1, 1, 1)
        joint, parts = joint_loss(
            r, canvases, purified, units, clean, levels, losses.served_fidelity, losses.served_steadiness
        )
        total = answers.mean() + joint
        mapper = encoder.psm.mapper
        if isinstance(mapper, ResidualMapper):
            kept = losses.identity(mapper(once, sigma / 100), once, mapper.std)
            total = total + r.lambda_rb * r.lambda_id * kept
        figures = {"answers": answers.mean(), **parts}
        return total, {name: float(value.detach()) for name, value in figures.items()}

    def _attack(
        self,
        x: Tensor,
        sigma: Tensor,
        attacked: Tensor,
        question: Question,
        right: list[str],
        gen: torch.Generator,
    ) -> Tensor:
        """The attacked pictures after PGD on the answer through new noise."""
        rows = attacked.nonzero().flatten().tolist()
        aimed = torch.rand(len(rows), generator=gen) < _SHARE_TARGETED
        # Twins have many answers in common, and the right answer is no target.
        aimed &= torch.tensor([right[row] != right[row ^ 1] for row in rows])
        wanted = [right[row ^ 1] if aim else right[row] for row, aim in zip(rows, aimed, strict=True)]
        sign = torch.where(aimed, 1.0, -1.0)
        norm: Norm = "linf" if torch.rand((), generator=gen) < SHARE_L_INF else "l2"
        low, high = L_INF if norm == "linf" else L2
        eps = low + (high - low) * float(torch.rand((), generator=gen))

        def gain(z: Tensor) -> Tensor:
            units = self.encoder.units(*noise_pairs(z, sigma[attacked], gen))
            return sign * self.answerer.cross_entropy(question.phrasings[0], wanted, self._served(units))

        psm = self.encoder.psm
        psm.requires_grad_(False)
        with torch.enable_grad():
            found = pgd(gain, x[attacked], norm, eps, _PGD_STEPS, gen)
        psm.requires_grad_(True)
        return found

    def _served(self, units: Tensor) -> Tensor:
        """The tokens (B, T, D) that the language model sees of two noises (2 B, T * D) of each picture."""
        first, second = units.chunk(2)
        return self.encoder.served(F.normalize(first + second, dim=1))

    def _levels(self, gen: torch.Generator) -> Tensor:
        """sigma (B,): 0.5 for half of the pictures, 0.25 or 0.75 for one in five, any for the rest."""
        choice, any_level = torch.rand(2, _PICTURES, generator=gen)
        listed = torch.where(choice < 0.6, 0.25, 0.75)
        return torch.where(choice < 0.5, 0.5, torch.where(choice < 0.7, listed, any_level))

    def _scenes(self, gen: torch.Generator) -> tuple[Tensor, list[Facts]]:
        pairs = _PICTURES // 2
        coloured = scenes.sample_layouts(pairs - _GREY // 2, gen)
        grey = scenes.sample_layouts(_GREY // 2, gen, grey=True)
        layouts = scenes.each_twice(scenes.join(coloured, grey))
        chosen = torch.randint(len(self._digits.labels), (pairs,), generator=gen)
        both = torch.stack([chosen, scenes.twin_indices(self._digits, chosen, gen)], 1).flatten()
        return labelled_drawings(self._digits, both, layouts, gen)

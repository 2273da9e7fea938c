"""What fine-tuning for votes asks of a batch: its questions, its losses and what its attacks make larger."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from smoothgate.psm.unit_encoder import UnitEncoder
from smoothgate_lab.psm_training import vote_losses
from smoothgate_lab.psm_training.frozen_language_model import Answers, FrozenLanguageModel

#: Questions about any picture.
QUESTIONS = (
    "Describe the image.",
    "What is shown in the image?",
    "Describe the image in one short sentence.",
    "What is the main object in the image?",
    "What colors are in the image?",
    "Is there a person in the image? Answer yes or no.",
    "Is there any text in the image? Answer yes or no.",
    "Was the image taken indoors or outdoors? Answer with one word.",
)


@dataclass(frozen=True, slots=True)
class VoteRecipe:
    """The settings of a fine-tuning for votes, in addition to those of all stages.

    Attributes:
        steps: number of updates.
        questions: what the language model is asked about pictures, one of them per batch.
        lambda_distribution: weight of `vote_losses.distribution`.
        lambda_agreement: weight of `vote_losses.agreement`.
        attacked: whether pictures are attacked on these losses, as `attacks_through_noise.attack` chooses.
    """

    steps: int
    questions: tuple[str, ...] = QUESTIONS
    lambda_distribution: float = 1.0
    lambda_agreement: float = 0.0
    attacked: bool = False


class VoteTuning:
    """The language model, and the settings.

    Args:
        language_model: of the same checkpoint as the encoder.
        recipe: the settings.
    """

    def __init__(self, language_model: FrozenLanguageModel, recipe: VoteRecipe) -> None:
        self.language_model = language_model
        self.recipe = recipe

    def ask(self, encoder: UnitEncoder, x: Tensor, tokens: Tensor, gen: torch.Generator) -> AskedPictures:
        """Ask one question about pictures without noise.

        Args:
            encoder: what is tuned.
            x: (B, 3, H, W) the pictures.
            tokens: (B, T, D) their visual tokens, by h alone.
            gen: generator of the choice of the question.
        """
        questions = self.recipe.questions
        question = questions[int(torch.randint(len(questions), (), generator=gen))]
        answers = self.language_model.answer(question, tuple(x.shape[1:]), tokens)
        return AskedPictures(self, encoder, answers)


@dataclass(frozen=True, slots=True, eq=False)
class AskedPictures:
    """B pictures, and the answers without noise."""

    tuning: VoteTuning
    encoder: UnitEncoder
    answers: Answers

    def loss(self, units: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of unit features (2 B, T * D) under two noises of each picture, and its parts to show."""
        return self._loss(self.answers, units)

    def gain(self, z: Tensor, levels: Tensor, rows: Tensor) -> Tensor:
        """What an attack makes larger, see `attacks_through_noise.Gain`."""
        total, _ = self._loss(self.answers.of(rows), self.encoder.units(z, levels))
        return total * len(rows)

    def _loss(self, answers: Answers, units: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        recipe = self.tuning.recipe
        twice = answers.twice()
        spoken = self.tuning.language_model.log_probabilities(twice, self.encoder.served(units))
        apart = vote_losses.distribution(spoken, twice.log_probabilities, twice.asked).mean()
        alike = vote_losses.agreement(spoken, answers.asked).mean()
        total = recipe.lambda_distribution * apart + recipe.lambda_agreement * alike
        return total, {"distribution": apart, "agreement": alike}

"""The attacks that the page offers on one picture of the demo model, step by step.

The attacker knows everything (white box): the weights and, for the adaptive attack, the whole defence. The
adaptive attack differentiates through the defence with new noise at every step (EOT).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from smoothgate.psm.unit_encoder import UnitEncoder
from smoothgate_lab.chat_models.answerer import Answerer
from smoothgate_lab.demo.conversation import ONE_PICTURE, Facts
from smoothgate_lab.evaluation.attacks.objectives import towards_answer
from smoothgate_lab.evaluation.attacks.pgd import Norm, pgd
from smoothgate_lab.evaluation.victims import SmoothedVictim, Undefended, Victim

_DIGIT = ONE_PICTURE[0]
QUESTION = _DIGIT.phrasings[0]
#: Largest eps by norm. A perturbation of 48 / 255, or of an l2 norm of 6, is obvious to the eye.
LARGEST: dict[Norm, float] = {"linf": 48 / 255, "l2": 6.0}
_DRAWS = 8
_STEPS = {"undefended": 40, "adaptive": 40}


class AttackRequest(BaseModel):
    """The picture to attack, the target, and how far the picture may move."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    image: str = Field(description="The picture as a data URI.")
    target: int = Field(ge=0, le=9, description="The digit that the model shall answer.")
    norm: Norm = "linf"
    eps: float = Field(16 / 255, gt=0, description="Radius in the norm, for pixels in [0, 1].")
    method: Literal["undefended", "adaptive"] = Field(
        "undefended", description="What the attacker differentiates: the bare or the defended model."
    )
    sigma: float | None = Field(
        None, gt=0, description="Noise that an adaptive attacker expects; left out: the operator's."
    )

    @model_validator(mode="after")
    def _bounded(self) -> AttackRequest:
        if self.eps > LARGEST[self.norm]:
            raise ValueError(f"eps is at most {LARGEST[self.norm]:g} in {self.norm}")
        return self

    @property
    def steps(self) -> int:
        """Number of steps of gradient descent."""
        return _STEPS[self.method]

    @property
    def cost(self) -> int:
        """Number of forwards through the encoder with gradients."""
        return self.steps * (_DRAWS if self.method == "adaptive" else 1)


@dataclass(frozen=True, slots=True)
class Step:
    """One step of an attack.

    Attributes:
        number: number of steps done before this one.
        loss: negative log-probability of the attacker's answer for the attacked model.
        picture: (3, H, W) in [0, 1].
    """

    number: int
    loss: float
    picture: Tensor


def craft(
    encoder: UnitEncoder,
    answerer: Answerer,
    x: Tensor,
    asked: AttackRequest,
    sigma: float,
    report: Callable[[Step], None],
) -> Tensor:
    """Attack one picture by projected gradient descent.

    Args:
        encoder: the demo model's encoder, on the CPU.
        answerer: the demo model's language model.
        x: (3, H, W) in [0, 1].
        asked: the target, the ball and the method.
        sigma: noise level that an adaptive attacker assumes.
        report: called before each step. An exception from it ends the attack.

    Returns:
        (3, H, W): the picture within eps, rounded to the 8 bits of an image file.
    """
    gen = torch.Generator()
    gen.seed()
    victim: Victim = Undefended(encoder)
    if asked.method == "adaptive":
        victim = SmoothedVictim(encoder, sigma, _DRAWS)
    wanted = _DIGIT.answer(Facts(asked.target, "", "", ""))
    aim = towards_answer(victim, answerer, QUESTION, [wanted], gen)
    done = 0

    def loss(picture: Tensor) -> Tensor:
        nonlocal done
        value = aim(picture)
        report(Step(done, float(value[0].detach()), picture[0].detach()))
        done += 1
        return value

    return rounded(pgd(loss, x[None], asked.norm, asked.eps, asked.steps, gen)[0])


def rounded(x: Tensor) -> Tensor:
    """A canvas rounded to the 8 bits of an image file."""
    return (x * 255).round() / 255

"""What `smoothgate evaluate` is told in a TOML file: defences, attacks, and how much of everything."""

from __future__ import annotations

import hashlib
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from smoothgate.errors import MalformedRequest
from smoothgate_lab.demo.conversation import ONE_PICTURE, Question
from smoothgate_lab.evaluation.attacks.pgd import Norm

Positive = Annotated[int, Field(ge=1)]

_QUESTIONS = {question.name: question for question in ONE_PICTURE}


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Defence(_Strict):
    """One row of the table."""

    name: str
    parts: Literal["none", "identity", "purifier", "mapper", "both"] = Field(
        description="none: the model as it is; else smoothed, with these parts of the PSM."
    )
    model: str | None = Field(None, description="Another encoder's checkpoint; left out: the plan's.")
    psm: Path | None = Field(None, description="Folder of another PSM; left out: the plan's.")
    n: Positive | None = Field(None, description="The first of the plan's scenes alone.")


class Attack(_Strict):
    """One attack at several radii."""

    name: str
    objective: Literal["answer", "untargeted", "feature", "crops", "transport", "square"] = Field(
        description="answer: cross-entropy of the attacker's answer; untargeted: of the right one; feature, "
        "crops (M-Attack), transport (FOA-Attack): the target picture's features; square: of the right "
        "answer, from scores alone."
    )
    setting: Literal["adaptive", "transferred", "service"] = Field(
        description="adaptive: crafted on the defence itself, through fresh noise; transferred: on the "
        "undefended model; service: on the running service, through HTTP (square alone)."
    )
    question: Literal["digit", "ink", "background", "pattern", "parity", "describe"] = Field(
        "digit", description="Whose answer is attacked."
    )
    defences: tuple[str, ...] = Field((), description="Names of those that it is shown to; left out: all.")
    n: Positive | None = Field(None, description="The first of the plan's scenes alone.")
    restarts: Positive = Field(1, description="Of each picture the best end is kept.")
    linf: tuple[float, ...] = Field((), description="Radii in 255ths.")
    l2: tuple[float, ...] = Field((), description="Radii, pixels in [0, 1].")

    @model_validator(mode="after")
    def _possible(self) -> Attack:
        if self.objective == "square" and self.l2:
            raise ValueError("square squares are of l_inf")
        if self.setting == "service" and self.objective != "square":
            raise ValueError("through HTTP there are no gradients: only square is possible there")
        return self

    def balls(self) -> list[tuple[Norm, float]]:
        """(norm, eps) of all radii, pixels in [0, 1]."""
        return [("linf", eps / 255) for eps in self.linf] + [("l2", eps) for eps in self.l2]


class EvaluationPlan(_Strict):
    """A whole evaluation. Everything random in it follows from `seed`."""

    n: Positive = Field(200, description="Held-out scenes.")
    seed: int = 11
    sigma: float = Field(0.5, gt=0)
    n_select: Positive = Field(64, description="Noisy copies behind each answer.")
    n_certify: Positive = Field(1024, description="Fresh ones behind each certificate.")
    n_check: Positive = Field(256, description="Fresh ones of an attacked picture, to refute it.")
    alpha: float = Field(0.001, gt=0, lt=1)
    radii: tuple[float, ...] = Field((0.25, 0.5, 1.0), description="At which certificates are reported.")
    steps: Positive = Field(40, description="Of each attack.")
    draws: Positive = Field(16, description="Noisy copies per step of an adaptive attack (EOT).")
    queries: Positive = Field(200, description="Of each square attack, per picture.")
    batch: Positive = Field(10, description="Pictures attacked at a time.")
    defences: tuple[Defence, ...]
    attacks: tuple[Attack, ...]

    @model_validator(mode="after")
    def _known(self) -> EvaluationPlan:
        names = [defence.name for defence in self.defences]
        if len({*names}) < len(names):
            raise ValueError("two defences have the same name")
        for attack in self.attacks:
            if unknown := {*attack.defences} - {*names}:
                raise ValueError(f"attack {attack.name}: no defence is named {', '.join(sorted(unknown))}")
        keys = [cell.key for cell in self.cells()]
        if len({*keys}) < len(keys):
            raise ValueError("an attack in the same ball is shown to the same defence twice")
        return self

    def cells(self) -> list[Cell]:
        """All of them, clean ones first."""
        found = [Cell(defence, None) for defence in self.defences]
        for attack in self.attacks:
            shown = [d for d in self.defences if d.name in attack.defences or not attack.defences]
            for norm, eps in attack.balls():
                found += [Cell(defence, attack, norm, eps) for defence in shown]
        return found

    def size(self, cell: Cell) -> int:
        """Pictures of a cell."""
        attacked = cell.attack.n if cell.attack else None
        return min(limit for limit in (self.n, cell.defence.n, attacked) if limit is not None)

    def seed_of(self, cell: Cell, number: int) -> int:
        """Of what is random about a picture in a cell; transferred attacks are crafted in their own."""
        return int(hashlib.sha256(f"{self.seed} {cell.key} {number}".encode()).hexdigest()[:10], 16)


@dataclass(frozen=True, slots=True)
class Cell:
    """One defence against one attack in one ball; no attack and eps 0: clean."""

    defence: Defence
    attack: Attack | None
    norm: Norm | None = None
    eps: float = 0.0

    @property
    def key(self) -> str:
        """Unique within a plan."""
        return f"{self.defence.name}, {self.crafted}"

    @property
    def crafted(self) -> str:
        """The attack and its ball."""
        if self.attack is None:
            return "clean"
        about = "" if self.attack.question == "digit" else f" ({self.attack.question})"
        return f"{self.attack.name}{about}, {self.attack.setting}, {self.norm} {self.eps:.6g}"

    @property
    def question(self) -> Question:
        """Whose answer is attacked: the attacker wants the twin's."""
        return _QUESTIONS[self.attack.question if self.attack else "digit"]


def load_plan(file: Path) -> EvaluationPlan:
    """Read a plan.

    Raises:
        MalformedRequest: naming the field at fault.
    """
    try:
        return EvaluationPlan.model_validate(tomllib.loads(file.read_text()))
    except (tomllib.TOMLDecodeError, OSError) as error:
        raise MalformedRequest(f"{file}: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise MalformedRequest(f"{file}: {place}: {first['msg']}") from error

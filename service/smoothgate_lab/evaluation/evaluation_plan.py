"""The plan of `smoothgate evaluate`, read from a TOML file: defences, attacks and sample sizes."""

from __future__ import annotations

import hashlib
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from smoothgate.errors import MalformedRequest
from smoothgate_lab.evaluation.attacks.pgd import Norm

Positive = Annotated[int, Field(ge=1)]

# Attacks of the Adversarial Robustness Toolbox.
_ART = ("art-square", "hop-skip-jump")
# Questions whose answers are the classes of a model's pictures.
_CLASSES = ("digit", "what")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Defence(_Strict):
    """One row of the table."""

    name: str
    parts: Literal["none", "identity", "purifier", "mapper", "both"] = Field(
        description="none: the model without smoothing; others: smoothed, with these parts of the PSM."
    )
    model: str | None = Field(None, description="Checkpoint of another encoder. By default the plan's.")
    psm: Path | None = Field(None, description="Folder of another PSM. By default the plan's.")
    n: Positive | None = Field(None, description="Only this many of the plan's scenes, from the first.")


class Attack(_Strict):
    """One attack at several radii."""

    name: str
    objective: Literal[
        "answer",
        "untargeted",
        "feature",
        "crops",
        "transport",
        "square",
        "auto-attack",
        "art-square",
        "hop-skip-jump",
    ] = Field(
        description="answer: cross-entropy of the attacker's answer; untargeted: that of the right answer; "
        "feature, crops (M-Attack), transport (FOA-Attack): distance to the target picture's features; "
        "square: score of the right answer, without gradients. Of other people's tools: auto-attack "
        "(AutoAttack, version rand, untargeted), art-square and hop-skip-jump (ART)."
    )
    setting: Literal["adaptive", "transferred", "service"] = Field(
        description="adaptive: crafted on the defence itself with new noise; transferred: crafted on the "
        "undefended model; service: crafted on the running service through HTTP (only square and ART's)."
    )
    question: Literal["digit", "ink", "background", "pattern", "parity", "what", "kind", "describe"] = Field(
        "digit", description="The question whose answer is attacked; of photographs: what, kind or describe."
    )
    defences: tuple[str, ...] = Field((), description="Names of the attacked defences. By default all.")
    n: Positive | None = Field(None, description="Only this many of the plan's scenes, from the first.")
    restarts: Positive = Field(1, description="Number of starts. The best result is kept for each picture.")
    linf: tuple[float, ...] = Field((), description="Radii in 255ths.")
    l2: tuple[float, ...] = Field((), description="Radii, pixels in [0, 1].")

    @model_validator(mode="after")
    def _possible(self) -> Attack:
        if self.objective in ("square", "art-square") and self.l2:
            raise ValueError("square works only in l_inf")
        if self.setting == "service" and self.objective not in ("square", *_ART):
            raise ValueError("HTTP gives no gradients: only square and ART's attacks are possible there")
        if self.setting != "service" and self.objective in _ART:
            raise ValueError("ART's attacks ask the running service")
        if self.setting != "adaptive" and self.objective == "auto-attack":
            raise ValueError("AutoAttack is adaptive")
        if self.question not in _CLASSES and self.objective in ("auto-attack", *_ART):
            raise ValueError("the classes of this attack are the ten digits, or what photographs show")
        return self

    def balls(self) -> list[tuple[Norm, float]]:
        """(norm, eps) of all radii, pixels in [0, 1]."""
        return [("linf", eps / 255) for eps in self.linf] + [("l2", eps) for eps in self.l2]


class EvaluationPlan(_Strict):
    """An evaluation. All its random numbers follow from `seed`."""

    n: Positive = Field(200, description="Held-out scenes.")
    seed: int = 11
    sigma: float = Field(0.5, gt=0)
    n_select: Positive = Field(64, description="Noisy copies for each answer.")
    n_certify: Positive = Field(1024, description="New noisy copies for each certificate.")
    n_check: Positive = Field(
        256, description="New noisy copies of an attacked picture, to refute the bound."
    )
    alpha: float = Field(0.001, gt=0, lt=1)
    radii: tuple[float, ...] = Field((0.25, 0.5, 1.0), description="Radii of the reported certificates.")
    steps: Positive = Field(40, description="Steps of each attack.")
    draws: Positive = Field(16, description="Noisy copies per step of an adaptive attack (EOT).")
    queries: Positive = Field(200, description="Queries of each square attack per picture.")
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
        """All cells, clean ones first."""
        cells = [Cell(defence, None) for defence in self.defences]
        for attack in self.attacks:
            attacked = [d for d in self.defences if d.name in attack.defences or not attack.defences]
            for norm, eps in attack.balls():
                cells += [Cell(defence, attack, norm, eps) for defence in attacked]
        return cells

    def size(self, cell: Cell) -> int:
        """Number of pictures of a cell."""
        attacked = cell.attack.n if cell.attack else None
        return min(limit for limit in (self.n, cell.defence.n, attacked) if limit is not None)

    def seed_of(self, cell: Cell, number: int) -> int:
        """The seed of a picture in a cell. Transferred attacks have cells of their own."""
        return int(hashlib.sha256(f"{self.seed} {cell.key} {number}".encode()).hexdigest()[:10], 16)


@dataclass(frozen=True, slots=True)
class Cell:
    """One defence against one attack in one ball. Without an attack and with eps 0, pictures are clean."""

    defence: Defence
    attack: Attack | None
    norm: Norm | None = None
    eps: float = 0.0

    @property
    def key(self) -> str:
        """A name that is unique within a plan."""
        return f"{self.defence.name}, {self.crafted}"

    @property
    def crafted(self) -> str:
        """The name of the attack and its ball."""
        if self.attack is None:
            return "clean"
        about = "" if self.attack.question == "digit" else f" ({self.attack.question})"
        return f"{self.attack.name}{about}, {self.attack.setting}, {self.norm} {self.eps:.6g}"


def load_plan(file: Path) -> EvaluationPlan:
    """Read a plan.

    Raises:
        MalformedRequest: the plan is invalid. The message names the field at fault.
    """
    try:
        return EvaluationPlan.model_validate(tomllib.loads(file.read_text()))
    except (tomllib.TOMLDecodeError, OSError) as error:
        raise MalformedRequest(f"{file}: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise MalformedRequest(f"{file}: {place}: {first['msg']}") from error

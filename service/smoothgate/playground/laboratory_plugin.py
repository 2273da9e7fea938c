"""The attack laboratory as a plugin of the page: its code belongs to the lab."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any

from fastapi import APIRouter

from smoothgate.extras import MissingExtra, load_plugin
from smoothgate.gate.service import Service

GROUP = "smoothgate.playground"


@dataclass(frozen=True, slots=True)
class LaboratoryPlugin:
    """What the entry point `laboratory` makes.

    Attributes:
        router: makes its routes, without a prefix, for a service.
        question: what is asked about the attacked picture.
        largest: largest size of an attack by norm, pixels in [0, 1].
        presets: attacks that are offered ready-made, as JSON.
    """

    router: Callable[[Service], APIRouter]
    question: str
    largest: Mapping[str, float]
    presets: Sequence[Mapping[str, Any]]

    def facts(self) -> dict[str, Any]:
        """What the page must know of it, as JSON."""
        return {"question": self.question, "largest": dict(self.largest), "presets": list(self.presets)}


def load_laboratory() -> LaboratoryPlugin:
    """Make the laboratory.

    Raises:
        MissingExtra: the extra `lab` is not installed.
    """
    what = "The playground's laboratory (SMOOTHGATE_LABORATORY)"
    for entry in entry_points(group=GROUP, name="laboratory"):
        make: Callable[[], LaboratoryPlugin] = load_plugin(entry, what)
        return make()
    raise MissingExtra("lab", what)

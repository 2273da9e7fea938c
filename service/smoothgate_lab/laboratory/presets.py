"""Attacks on bundled samples that the page offers ready-made.

`python -m smoothgate_lab.laboratory.preset_search` prints which samples and targets there are to choose from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from smoothgate_lab.evaluation.attacks.pgd import Norm


@dataclass(frozen=True, slots=True)
class Preset:
    """An attack with the terms of the certificate that it meets.

    Attributes:
        place: whether the attack lies within the certified radius, or beyond it.
        sample: the picture.
        target: the digit that the attacker wants.
        norm: in which the attack is measured.
        eps: its size in that norm, pixels in [0, 1].
        sigma: noise of the certified answer.
        radius: l2 radius that is certified.
    """

    place: Literal["inside", "beyond"]
    sample: str
    target: int
    norm: Norm
    eps: float
    sigma: float
    radius: float


PRESETS = (
    Preset("inside", "seven", 2, "l2", 1.2, 0.75, 1.25),
    Preset("beyond", "seven", 3, "linf", 16 / 255, 0.75, 1.25),
)

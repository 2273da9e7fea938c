"""What a radius of an answer costs, and what it means: the tables of docs/answers.md."""

from __future__ import annotations

from typing import Any

from smoothgate.certify.answer_certificate import evenly_spread
from smoothgate.certify.votes import VoteTerms, smallest_budget
from smoothgate.settings import Settings

#: Radii in units of sigma, and the error probability of their statements.
RADII = (0.5, 1.0, 1.5, 2.0, 2.5)
ALPHA = 0.001
#: Sides of square canvases, and l2 radii.
SIDES = (48, 224, 336, 448)
DISTANCES = (0.25, 0.5, 1.0)


def run() -> dict[str, Any]:
    """Both tables.

    Returns:
        `samples`: by `radius` (in units of sigma), the fresh samples after which it is certified where all
        agree; `levels`: by `side` of the canvas and l2 `radius`, levels of 255 if it is spread evenly over
        all pixels and colours.
    """
    selection = Settings(_env_file=None).n_select_answer
    return {
        "samples": [
            {"radius": radius, "samples": smallest_budget(VoteTerms(1.0, ALPHA, radius), selection)}
            for radius in RADII
        ],
        "levels": [
            {"side": side, "radius": radius, "levels": evenly_spread(radius, side, side)}
            for radius in DISTANCES
            for side in SIDES
        ],
    }

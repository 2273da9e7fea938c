"""What a table of certificates says: outcomes, and the share of pictures that is certified at a radius."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from smoothgate.datasets.rows import Row

#: Radii of the printed table.
RADII = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
_SAYS_SOMETHING = ("certified", "bounded")


@dataclass(frozen=True, slots=True)
class Summary:
    """Of a table.

    Attributes:
        pictures: in all.
        outcomes: number of certificates by outcome.
        errors: number of pictures without one, by error code.
        radii: at the cosine threshold, l2 in the encoder's input space, of the certificates that say
            something and have one; descending.
        false_statements: the sum of the alphas: no more certificates than that are expected to be false.
        models: digests of the models that certified; more than one: the model was changed on the way.
    """

    pictures: int
    outcomes: dict[str, int]
    errors: dict[str, int]
    radii: tuple[float, ...]
    false_statements: float
    models: tuple[str, ...]

    @classmethod
    def of(cls, rows: Sequence[Row]) -> Summary:
        """From the rows."""
        radii = [r["radius"] for r in rows if r["radius"] is not None and r["outcome"] in _SAYS_SOMETHING]
        return cls(
            pictures=len(rows),
            outcomes=dict(Counter(row["outcome"] for row in rows if row["outcome"] is not None)),
            errors=dict(Counter(row["error_code"] for row in rows if row["error_code"] is not None)),
            radii=tuple(sorted(radii, reverse=True)),
            false_statements=sum(row["alpha"] or 0.0 for row in rows),
            models=tuple(sorted({row["model_digest"] for row in rows if row["model_digest"] is not None})),
        )

    def share(self, radius: float) -> float:
        """The share of all pictures whose certificate has at least this radius. Failures count as none."""
        return sum(each >= radius for each in self.radii) / self.pictures

    @property
    def median_radius(self) -> float | None:
        """Of the certificates that have a radius."""
        return median(self.radii) if self.radii else None


def plot(summary: Summary) -> str:
    """The share of the pictures against the radius, as SVG (needs matplotlib)."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.subplots()
    radii = [0.0, *reversed(summary.radii)]
    axes.step(radii, [summary.share(radius) for radius in radii], where="pre")
    axes.set(xlabel="l2 radius at the encoder's input", ylabel="share of the pictures", ylim=(0, 1.02))
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)
    written = io.StringIO()
    FigureCanvasSVG(figure).print_svg(written, metadata={"Date": None})
    return written.getvalue()

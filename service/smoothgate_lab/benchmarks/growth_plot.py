"""The plot of `smoothgate bench sampler --plot`: how cost grows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path


def plot_growth(growth: Mapping[str, Sequence[Mapping[str, float]]], file: Path) -> None:
    """Draw the `growth` of `sampler.run`, a panel for each growing quantity (matplotlib, extra `lab`)."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4 * len(growth), 3.4), layout="constrained")
    FigureCanvasSVG(figure)
    panels = figure.subplots(1, len(growth), squeeze=False)[0]
    for panel, (what, rows) in zip(panels, growth.items(), strict=True):
        at, seconds = [row["at"] for row in rows], [row["seconds"] for row in rows]
        panel.plot(at, seconds, "o-")
        panel.set(xlabel=what, xscale="log", yscale="log")
        panel.set_xticks(at, labels=[f"{each:g}" for each in at])
        panel.minorticks_off()
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("seconds of a request")
    panels[-1].set_ylabel("seconds of a sample")
    figure.savefig(file, metadata={"Date": None})

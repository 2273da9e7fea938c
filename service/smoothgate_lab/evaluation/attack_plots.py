"""The plot of `smoothgate psm evaluate --plot`."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def plot_psm(figures: dict[str, Any], file: Path) -> None:
    """Draw the rows of `psm.run`: score, right answers and the mean FCSB, part by part (needs
    matplotlib, extra `lab`).
    """
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    rows = figures["rows"]
    sigmas = sorted({row["sigma"] for row in rows})
    parts = list(dict.fromkeys(row["part"] for row in rows))
    questions = [name for name in ("digit", "describe") if name in rows[0]["accuracy"]]
    figure = Figure(figsize=(4 * (1 + len(questions) + len(sigmas)), 3.6), layout="constrained")
    FigureCanvasSVG(figure)
    panels = figure.subplots(1, 1 + len(questions) + len(sigmas), squeeze=False)[0]

    def by_sigma(panel: Any, title: str, value: Any) -> None:
        for part in parts:
            points = [(row["sigma"], value(row)) for row in rows if row["part"] == part]
            panel.plot(*zip(*sorted(points), strict=True), "o-", label=part)
        panel.set(title=title, xlabel="sigma", ylim=(0, 1.03))

    by_sigma(panels[0], "Gaussian robustness score", lambda row: row["score"])
    for panel, name in zip(panels[1:], questions, strict=False):
        by_sigma(panel, f"right answers: {name}", lambda row, name=name: row["accuracy"][name])
        panel.axhline(figures["undefended"]["accuracy"][name], color="grey", linestyle=":", linewidth=1)
    for panel, sigma in zip(panels[1 + len(questions) :], sigmas, strict=True):
        for row in (row for row in rows if row["sigma"] == sigma):
            points = [
                (0.0, 2 * row["score_lower"] - 1),
                *((float(e), value) for e, value in row["fcsb"].items()),
            ]
            panel.plot(*zip(*points, strict=True), "o-", label=row["part"])
        panel.set(title=f"certified cosine, sigma {sigma:g}", xlabel="eps (l2)", ylim=(-0.05, 1.03))
    panels[0].legend(fontsize=8)
    figure.savefig(file, metadata={"Date": None})

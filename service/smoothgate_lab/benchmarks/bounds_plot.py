"""The plot of `smoothgate bench certify --plot`: what is certified of the cosine, by distance and method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_LABELS = {
    "hoeffding": "paper's bound, Hoeffding",
    "betting": "paper's bound, betting",
    "served": "served",
    "paper_limit": "paper's bound, infinitely many samples",
    "layer_cake_limit": "layer-cake bound, infinitely many samples",
}


def plot_bench(rows: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Draw the `fcsb` rows of `bench.run` as curves and served `radius` rows as points, a panel per number
    of samples (needs matplotlib, extra `lab`).
    """
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    fcsb = [row for row in rows if row["quantity"] == "fcsb"]
    numbers = sorted({row["n"] for row in fcsb if row["n"] is not None})
    figure = Figure(figsize=(4 * len(numbers), 3.6), layout="constrained")
    FigureCanvasSVG(figure)
    panels = figure.subplots(1, len(numbers), sharey=True, squeeze=False)[0]
    for panel, n in zip(panels, numbers, strict=True):
        for method, label in _LABELS.items():
            points = sorted(
                (row["eps"], row["value"])
                for row in fcsb
                if row["method"] == method and row["n"] in (n, None)
            )
            style = "--" if method.endswith("limit") else "-"
            panel.plot(*zip(*points, strict=True), style, label=label)
        angular = [
            (row["value"], row["cosine"])
            for row in rows
            if (row["quantity"], row["method"], row["n"]) == ("radius", "served", n) and row["value"] > 0
        ]
        panel.plot(
            *zip(*angular, strict=True), "o", color="black", markersize=4, label="served, by the angle"
        )
        panel.axhline(0, color="grey", linewidth=0.5)
        panel.set(title=f"n = {n}", xlabel="eps / sigma", ylim=(-0.3, 1))
    panels[0].set_ylabel("certified cosine")
    panels[-1].legend(fontsize=7)
    figure.savefig(file, metadata={"Date": None})

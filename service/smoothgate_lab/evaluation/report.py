"""The report of an evaluation: tables, plots, and one page with both."""

from __future__ import annotations

import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from smoothgate.vision.png import png_data_uri
from smoothgate_lab.evaluation.evaluation_plan import EvaluationPlan
from smoothgate_lab.evaluation.shares import Share

Lines = Sequence[dict[str, Any]]

_CELL = ("defence", "attack", "setting", "question", "norm", "eps")


def summarise(lines: Lines, plan: EvaluationPlan) -> list[dict[str, Any]]:
    """Summarise lines into one row per cell, in the order of the lines.

    Args:
        lines: one line per picture.
        plan: the plan of the evaluation.

    Returns:
        Rows of `defence`, `attack`, `setting`, `question` (whose answer is attacked), `norm`, `eps`, `n`;
        `accuracy` (question -> share right), `accuracy_interval`, `hits` (share of the attacker's answers
        to the attacked question), `hits_interval`, `cosine` (mean FCS), `l2` (mean) and `contradictions`
        (count). Clean rows of smoothed defences also have `fcsb` (radius -> mean).
    """
    cells: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        cells.setdefault(line["key"], []).append(line)
    rows = []
    for found in cells.values():
        first = found[0]
        n = len(found)
        right = {name: Share(sum(line["right"][name] for line in found), n) for name in first["right"]}
        hits = Share(sum(line["hit"] for line in found), n)
        row: dict[str, Any] = {key: first[key] for key in _CELL}
        row |= {
            "n": n,
            "accuracy": {name: share.value for name, share in right.items()},
            "accuracy_interval": {name: share.interval() for name, share in right.items()},
            "hits": hits.value,
            "hits_interval": hits.interval(),
            "cosine": sum(line["cosine"] for line in found) / n,
            "l2": sum(line["l2"] for line in found) / n,
            "contradictions": sum(line["contradicted"] for line in found),
        }
        if first["attack"] == "clean" and first["bound"] is not None:
            radii = [f"{eps:g}" for eps in plan.radii]
            row["fcsb"] = {eps: sum(line["bound"][eps] for line in found) / n for eps in radii}
        rows.append(row)
    return rows


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """The tables of a report in Markdown."""
    parts = []
    clean = [row for row in rows if row["attack"] == "clean"]
    questions = list(clean[0]["accuracy"]) if clean else []
    parts.append(
        markdown_table(
            "Clean",
            ["defence", "n", *questions],
            [
                [row["defence"], str(row["n"]), *(f"{row['accuracy'][q]:.1%}" for q in questions)]
                for row in clean
            ],
        )
    )
    certified = [row for row in clean if "fcsb" in row]
    if certified:
        radii = list(certified[0]["fcsb"])
        heads = ["defence", "n", *(f"FCSB {r}" for r in radii)]
        parts.append(
            markdown_table(
                "Certified, clean pictures",
                heads,
                [
                    [
                        row["defence"],
                        str(row["n"]),
                        *(f"{row['fcsb'][r]:.3f}" for r in radii),
                    ]
                    for row in certified
                ],
            )
        )
    for (name, setting, question), mine in _by(rows, "attack", "setting", "question").items():
        heads = [
            "defence",
            "ball",
            "n",
            f"{question} right",
            "attacker's answer",
            "described right",
            "FCS",
            "l2",
        ]
        parts.append(
            markdown_table(
                f"{name} ({question}), {setting}",
                heads,
                [
                    [
                        row["defence"],
                        ball(row),
                        str(row["n"]),
                        _with_interval(row["accuracy"][question], row["accuracy_interval"][question]),
                        _with_interval(row["hits"], row["hits_interval"]),
                        f"{row['accuracy']['describe']:.1%}",
                        f"{row['cosine']:.3f}",
                        f"{row['l2']:.2f}",
                    ]
                    for row in mine
                ],
            )
        )
    refuted = sum(row["contradictions"] for row in rows)
    parts.append(f"Attacked pictures that refute a certificate: {refuted}.")
    return "\n\n".join(parts) + "\n"


def _by(rows: Sequence[dict[str, Any]], *keys: str) -> dict[tuple[Any, ...], list[dict[str, Any]]]:
    """Attacked rows, grouped by these keys."""
    found: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        if row["attack"] != "clean":
            found.setdefault(tuple(row[key] for key in keys), []).append(row)
    return found


def ball(row: dict[str, Any]) -> str:
    """The ball of a row, such as `l_inf 8/255` or `l2 0.5`."""
    if row["norm"] == "linf":
        return f"l_inf {row['eps'] * 255:g}/255"
    return f"l2 {row['eps']:g}"


def _with_interval(value: float, interval: Sequence[float]) -> str:
    return f"{value:.1%} ({interval[0]:.1%} to {interval[1]:.1%})"


def markdown_table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown under a title."""
    lines = [f"### {title}", "", "| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def plots(rows: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Plots as SVG by name (needs matplotlib).

    They show right answers and the attacker's answers against eps with 95 % intervals, and the certified
    cosine.
    """
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    found = {}
    clean = {row["defence"]: row for row in rows if row["attack"] == "clean"}
    for (attack, setting, question, norm), mine in _by(rows, "attack", "setting", "question", "norm").items():
        figure = Figure(figsize=(9, 3.6), layout="constrained")
        FigureCanvasSVG(figure)
        left, right = figure.subplots(1, 2)
        scale = 255 if norm == "linf" else 1
        for defence in dict.fromkeys(row["defence"] for row in mine):
            points = [row for row in mine if row["defence"] == defence]
            if defence in clean:
                points = [clean[defence], *points]
            at = [row["eps"] * scale for row in points]
            right_answers = [
                (row["accuracy"][question], row["accuracy_interval"][question]) for row in points
            ]
            _with_bars(left, at, right_answers, defence)
            _with_bars(right, at, [(row["hits"], row["hits_interval"]) for row in points], defence)
        unit = "l_inf, 255ths" if norm == "linf" else "l2"
        left.set(title="right answers", xlabel=unit, ylim=(-0.03, 1.03))
        right.set(title="attacker's answers", xlabel=unit, ylim=(-0.03, 1.03))
        right.legend(fontsize="small")
        found[f"{attack}, {question}, {setting}, {norm}"] = figure_svg(figure)
    certified = [row for row in clean.values() if "fcsb" in row]
    if certified:
        figure = Figure(figsize=(4.5, 3.6), layout="constrained")
        FigureCanvasSVG(figure)
        panel = figure.subplots()
        for row in certified:
            at = [float(eps) for eps in row["fcsb"]]
            panel.plot(at, list(row["fcsb"].values()), "o-", label=row["defence"])
        panel.set(title="certified cosine, mean", xlabel="l2", ylim=(-0.03, 1.03))
        panel.legend(fontsize="small")
        found["certified cosine"] = figure_svg(figure)
    return found


def _with_bars(
    panel: Any, at: Sequence[float], shares: Sequence[tuple[float, Sequence[float]]], label: str
) -> None:
    """Draw shares with their intervals."""
    values = [value for value, _ in shares]
    below = [value - low for value, (low, _) in shares]
    above = [high - value for value, (_, high) in shares]
    panel.errorbar(at, values, [below, above], fmt="o-", capsize=3, elinewidth=1, label=label)


def figure_svg(figure: Any) -> str:
    """A figure of matplotlib as SVG."""
    file = io.BytesIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue().decode()


def page(title: str, tables: str, drawn: dict[str, str], pictures: Sequence[tuple[str, bytes]]) -> str:
    """One HTML page that needs no other files.

    Args:
        title: title of the page.
        tables: the result of `markdown`.
        drawn: the result of `plots`.
        pictures: (caption, PNG) pairs.
    """
    body = [f"<h1>{html.escape(title)}</h1>", *_html_tables(tables)]
    body += [f"<h3>{html.escape(name)}</h3>{svg[svg.index('<svg') :]}" for name, svg in drawn.items()]
    for caption, png in pictures:
        body.append(
            f'<figure><img src="{png_data_uri(png)}" alt="{html.escape(caption)}">'
            f"<figcaption>{html.escape(caption)}</figcaption></figure>"
        )
    style = (
        ":root{color-scheme:light dark}"
        "body{font:15px/1.5 system-ui;max-width:72rem;margin:2rem auto;padding:0 1rem}"
        "table{border-collapse:collapse}"
        "td,th{padding:.2rem .6rem;border-bottom:1px solid #8886;text-align:left}"
        "svg{background:#fff;max-width:100%}figure{display:inline-block;margin:.5rem}img{image-rendering:pixelated}"
    )
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{style}</style>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(body)}</body></html>\n'


def _html_tables(text: str) -> list[str]:
    found: list[str] = []
    rows: list[str] = []
    for line in [*text.splitlines(), ""]:
        if line.startswith("|") and not line.startswith("|---"):
            cells = [html.escape(cell.strip()) for cell in line.strip("|").split("|")]
            kind = "td" if rows else "th"
            rows.append("<tr>" + "".join(f"<{kind}>{cell}</{kind}>" for cell in cells) + "</tr>")
        elif not line.startswith("|"):
            if rows:
                found.append(f"<table>{''.join(rows)}</table>")
                rows = []
            if line.startswith("### "):
                found.append(f"<h3>{html.escape(line[4:])}</h3>")
            elif line:
                found.append(f"<p>{html.escape(line)}</p>")
    return found


def write(
    folder: Path, title: str, rows: Sequence[dict[str, Any]], pictures: Sequence[tuple[str, bytes]]
) -> None:
    """Write `table.md`, the plots and `report.html` into a folder."""
    tables, drawn = markdown(rows), plots(rows)
    (folder / "table.md").write_text(tables)
    for name, svg in drawn.items():
        (folder / f"{name.replace(', ', '-').replace(' ', '-')}.svg").write_text(svg)
    (folder / "report.html").write_text(page(title, tables, drawn, pictures))

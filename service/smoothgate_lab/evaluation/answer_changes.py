"""How often an attack changed the answer, by the cosine of the served features: measured, not certified.

A certificate bounds a cosine, and nothing proves which cosine keeps an answer. These shares say what was seen
with the attacks of an evaluation, on one model and its questions.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from smoothgate.errors import SmoothgateError
from smoothgate_lab.evaluation.shares import Share

#: Edges of the cosine bins. The last bin holds 1.
EDGES = (-1.0, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)

_GZIP = b"\x1f\x8b"


def read_lines(file: Path) -> list[dict[str, Any]]:
    """The lines of an evaluation, from JSON lines or gzip of them.

    Raises:
        SmoothgateError: code `no_results`: the file holds something else.
    """
    content = file.read_bytes()
    try:
        text = gzip.decompress(content) if content.startswith(_GZIP) else content
        return [json.loads(line) for line in text.splitlines()]
    except (OSError, EOFError, ValueError) as error:
        raise SmoothgateError(f"{file} holds no results: {error}.", code="no_results") from error


def answer_changes(lines: Sequence[dict[str, Any]], defence: str) -> dict[str, dict[str, Share | None]]:
    """The share of changed answers of a defence, by cosine bin and question; None: no attack ended there.

    An answer is changed if it is not the one that the same defence gave about the clean picture. Pictures
    recur in several attacks, so the intervals are narrower than those of as many different pictures.

    Args:
        lines: of an evaluation.
        defence: its name.

    Raises:
        SmoothgateError: code `no_results`: there is no line of an adaptive attack on it, or none without one.
    """
    mine = [line for line in lines if line["defence"] == defence]
    clean = {line["index"]: line["given"] for line in mine if line["attack"] == "clean"}
    attacked = [line for line in mine if line["attack"] != "clean" and line["setting"] == "adaptive"]
    if not clean or not attacked:
        raise SmoothgateError(f"There are no adaptive attacks on {defence}.", code="no_results")
    questions = list(attacked[0]["given"])
    found: dict[str, dict[str, Share | None]] = {}
    for low, high in pairwise(EDGES):
        inside = [
            line for line in attacked if low <= line["cosine"] < high or (high == 1.0 <= line["cosine"])
        ]
        found[f"{low:g} to {high:g}"] = {
            name: Share(
                sum(line["given"][name] != clean[line["index"]][name] for line in inside), len(inside)
            )
            if inside
            else None
            for name in questions
        }
    return found


def changes_table(lines: Sequence[dict[str, Any]], defence: str) -> str:
    """The table of `answer_changes` in Markdown."""
    changes = answer_changes(lines, defence)
    questions = list(next(iter(changes.values())))
    rows = [
        f"### Changed answers by cosine, {defence}, adaptive attacks (measured, not certified)",
        "",
        f"| cosine | n | {' | '.join(questions)} |",
        "|" + "---|" * (2 + len(questions)),
    ]
    for name, by_question in changes.items():
        shares = [share for share in by_question.values() if share is not None]
        if shares:
            rows.append(f"| {name} | {shares[0].n} | {' | '.join(str(share) for share in shares)} |")
    return "\n".join(rows)

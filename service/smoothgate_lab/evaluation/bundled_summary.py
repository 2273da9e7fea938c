"""One table of what is bundled: clean, transferred, adaptive, resubmitted, certified.

It is made of the stored lines of the other measurements, and measures nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smoothgate.errors import SmoothgateError
from smoothgate_lab.evaluation import over_refusal, report, resubmission, vote_report
from smoothgate_lab.evaluation.answer_changes import read_lines
from smoothgate_lab.evaluation.evaluation_plan import EvaluationPlan, load_plan
from smoothgate_lab.evaluation.resubmission import Resubmitted
from smoothgate_lab.evaluation.shares import Share
from smoothgate_lab.evaluation.vote_samples import BLOCK, RADII, Block

Row = dict[str, Any]
#: What a table shows of a row.
Show = Callable[[Row], str]

_QUESTION = "digit"
_SIGMA = 0.5
_LEVELS = {8: 8 / 255, 16: 16 / 255}


@dataclass(frozen=True, slots=True)
class Stored:
    """The rows of all measurements.

    Attributes:
        attacked: of `smoothgate evaluate docs/plans/results.toml`.
        autoattack: of `smoothgate evaluate docs/plans/results-autoattack.toml`.
        art: of `smoothgate evaluate docs/plans/results-art.toml`.
        resubmitted: of `smoothgate demo resubmit docs/plans/results-resubmitted.toml`.
        votes: of `smoothgate demo votes`.
        refused: of `smoothgate demo over-refusal`.
        bundled: name of the bundled defence in the plans.
    """

    attacked: list[Row]
    autoattack: list[Row]
    art: list[Row]
    resubmitted: list[Row]
    votes: list[Row]
    refused: list[Row]
    bundled: str


def stored(results: Path, plans: Path) -> Stored:
    """Read the lines in a folder such as docs/results, of the plans in a folder such as docs/plans.

    Raises:
        SmoothgateError: a file is missing or holds something else.
    """

    def rows(name: str) -> list[Row]:
        return report.summarise(_lines(results, name), load_plan(plans / f"{name}.toml"))

    blocks = [
        Block(**_about(line, _QUESTION)) for line in _lines(results, "votes") if line["sigma"] == _SIGMA
    ]
    sent = [Resubmitted(**line) for line in _lines(results, "resubmitted")]
    return Stored(
        rows("results"),
        rows("results-autoattack"),
        rows("results-art"),
        resubmission.figures(sent),
        vote_report.figures(blocks)["rows"],
        over_refusal.figures(blocks)["rows"],
        bundled_defence(load_plan(plans / "results.toml")),
    )


def _about(block: Row, question: str) -> Row:
    """A stored block with one question alone."""
    parts = {name: block[name] for name in ("right", "answers", "votes", "mean")}
    return block | {name: part and {question: part[question]} for name, part in parts.items()}


def _lines(folder: Path, name: str) -> list[Row]:
    file = folder / f"{name}.jsonl.gz"
    if not file.exists():
        raise SmoothgateError(f"{file} is missing.", code="no_results")
    return read_lines(file)


def bundled_defence(plan: EvaluationPlan) -> str:
    """The name of the defence that has the bundled model and PSM."""
    return next(d.name for d in plan.defences if d.parts == "both" and d.model is None and d.psm is None)


def markdown(found: Stored) -> str:
    """The table in Markdown."""
    heads = ["", "scenes", "without Smoothgate", "bundled", "printed by"]
    rows = [
        *_clean(found),
        *_attacked(found),
        *_other_tools(found),
        *_resubmitted(found),
        *_certified(found),
    ]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows]) + "\n"


def _clean(found: Stored) -> list[list[str]]:
    rows = []
    for question, text in (("digit", "digit right"), ("describe", "described right")):
        bare, ours = (_one(found.attacked, name, "clean", "clean") for name in ("none", found.bundled))
        shares = [_right(row, question) for row in (bare, ours)]
        rows.append([f"clean: {text}", str(ours["n"]), *shares, "`evaluate results`"])
    return rows


def _attacked(found: Stored) -> list[list[str]]:
    rows = []
    for setting in ("transferred", "adaptive"):
        for kind in ("targeted", "untargeted"):
            show: Show = _hits if kind == "targeted" else _right
            text = "attacker's answer" if kind == "targeted" else "digit right"
            for level, eps in _LEVELS.items():
                ours = _one(found.attacked, found.bundled, f"{kind} PGD", setting, eps)
                bare = ""
                if setting == "transferred":
                    bare = show(_one(found.attacked, "none", f"{kind} PGD", setting, eps))
                name = f"{setting}, {kind} {level}/255: {text}"
                rows.append([name, str(ours["n"]), bare, show(ours), "`evaluate results`"])
    return rows


def _other_tools(found: Stored) -> list[list[str]]:
    rows = []
    for row in found.autoattack:
        if row["setting"] == "adaptive":
            name = f"adaptive, {row['attack']}, {report.ball(row)}, the same scenes: digit right"
            rows.append([name, str(row["n"]), "", _right(row), "`evaluate results-autoattack`"])
    for row in found.art:
        if row["setting"] != "service" or row["defence"] != found.bundled:
            continue
        bare = _one(found.art, "none", row["attack"], "service", row["eps"])
        name = f"over HTTP, {row['attack']}: l2 of the nearest wrong picture, mean"
        shown = [f"{each['l2']:.1f}" for each in (bare, row)]
        rows.append([name, str(row["n"]), *shown, "`evaluate results-art`"])
    return rows


def _resubmitted(found: Stored) -> list[list[str]]:
    rows = []
    for row in found.resubmitted:
        clean = row["attack"] == "clean"
        kind = "hits" if row["attack"].startswith("targeted") else "wrong"
        where = "clean" if clean else f"{row['setting']}, {row['attack'].split()[0]} {report.ball(row)[6:]}"
        what = "attacker's answer" if kind == "hits" else "wrong answer"
        shares = row[kind]
        told = (
            f"{_short(shares['once'])} once, {_short(shares['fresh'])} with fresh noise, "
            f"{_short(shares['repeated'])} with the picture's own, {_short(shares['altered'])} if altered"
        )
        name = f"sent {row['times']} times, {where}: {what} at least once"
        rows.append([name, str(row["n"]), "", told, "`demo resubmit`"])
    return rows


def _certified(found: Stored) -> list[list[str]]:
    (votes,) = [r for r in found.votes if _is(r, sigma=_SIGMA, question=_QUESTION, n=BLOCK)]
    certified = [votes["certified"][f"{r:g}"] for r in RADII]
    (refused,) = [r for r in found.refused if _is(r, sigma=_SIGMA, question=_QUESTION, budget=BLOCK)]
    radii = " / ".join(f"{r:g}" for r in RADII)
    return [
        [
            f"certified: right digit at l2 {radii}",
            str(votes["scenes"]),
            "",
            " / ".join(map(_short, certified)),
            "`demo votes`",
        ],
        [
            f"clean, but abstained, where a policy requires l2 {radii}",
            str(refused["scenes"]),
            "",
            " / ".join(_short(share) if share else "all" for share in refused["abstained"].values()),
            "`demo over-refusal`",
        ],
        [
            "attacked pictures that refute a certificate",
            str(len({(row["defence"], row["attack"], row["eps"]) for row in found.attacked})) + " cells",
            "",
            str(sum(row["contradictions"] for row in found.attacked + found.autoattack + found.art)),
            "`evaluate`",
        ],
    ]


def _one(rows: Sequence[Row], defence: str, attack: str, setting: str, eps: float = 0.0) -> Row:
    mine = [
        row
        for row in rows
        if _is(row, defence=defence, attack=attack, setting=setting, question=_QUESTION)
        and abs(row["eps"] - eps) < 1e-9
    ]
    if len(mine) != 1:
        raise SmoothgateError(f"There is no result of {attack} ({setting}) on {defence}.", code="no_results")
    return mine[0]


def _is(row: Row, **wanted: object) -> bool:
    return all(row[name] == value for name, value in wanted.items())


def _right(row: Row, question: str = _QUESTION) -> str:
    return _of(row["accuracy"][question], row["n"])


def _hits(row: Row) -> str:
    return _of(row["hits"], row["n"])


def _of(value: float, n: int) -> str:
    return str(Share(round(value * n), n))


def _short(share: Row) -> str:
    return f"{share['value']:.1%}"

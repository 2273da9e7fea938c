"""How many answers of a bundled model are right to the letter, per kind of question."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.progress import track
from rich.table import Table
from torch import Tensor

from smoothgate_lab.chat_models.answerer import CHATS, Answerer
from smoothgate_lab.chat_models.chats import Message

_ERRORS = 5


@dataclass(frozen=True, slots=True)
class Case:
    """A chat and the right answer.

    Attributes:
        kind: of question.
        chat: messages.
        tokens: (T, D) of each of its pictures, in order.
        wanted: the right answer.
    """

    kind: str
    chat: list[Message]
    tokens: list[Tensor]
    wanted: str


def exact_match(answerer: Answerer, cases: Sequence[Case]) -> dict[str, Any]:
    """Ask all cases.

    Returns:
        `accuracy` (kind -> share of right answers), `asked` (kind -> number of cases), `errors` (kind -> up
        to five wrong answers with the right answers).
    """
    asked = Counter(case.kind for case in cases)
    right: Counter[str] = Counter()
    errors: dict[str, list[str]] = {}
    for start in track(range(0, len(cases), CHATS), description="Asking"):
        batch = cases[start : start + CHATS]
        replies = answerer([(case.chat, case.tokens) for case in batch])
        for case, given in zip(batch, replies, strict=True):
            if given == case.wanted:
                right[case.kind] += 1
            elif len(errors.setdefault(case.kind, [])) < _ERRORS:
                errors[case.kind].append(f"{given!r} for {case.wanted!r}")
    return {
        "accuracy": {kind: right[kind] / number for kind, number in asked.items()},
        "asked": dict(asked),
        "errors": errors,
    }


def accuracy_table(figures: dict[str, Any], title: str) -> Table:
    """What `exact_match` returned, without the errors, for a console."""
    table = Table("question", "asked", "right", title=title)
    for kind, accuracy in figures["accuracy"].items():
        table.add_row(kind, str(figures["asked"][kind]), f"{accuracy:.1%}")
    return table

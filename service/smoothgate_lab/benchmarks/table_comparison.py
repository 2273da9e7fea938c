"""Two tables of certificates of the same pictures: is every picture there once, with the same certificate?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from smoothgate.certify.signing import content
from smoothgate.datasets.rows import Row
from smoothgate.verification import leaves
from smoothgate_lab.benchmarks.device_bench import TOLERANCE

#: What says when and under which name a certificate was made, and its signature: they differ in every run.
OWN = frozenset({"time", "request_id", "jws"})
# The digest of the served tokens: numbers that differ in their last bits have another one.
_TOKENS = "certificate.served_tokens_sha256"
_DTYPE = "certificate.model.dtype"


@dataclass(frozen=True, slots=True)
class Difference:
    """The first field in which the certificates of a picture differ by more than rounding.

    Attributes:
        path: of the picture.
        field: by its path in the row, such as `certificate.bounds.0.fcsb`.
        first, second: its values; None too where there is no such field.
    """

    path: str
    field: str
    first: Any
    second: Any


@dataclass(frozen=True, slots=True)
class Comparison:
    """Of two tables.

    Attributes:
        missing: pictures that either table lacks.
        double: pictures that either table has more than once.
        foreign: paths that are in a table and not among the pictures.
        failed: pictures that either table has no certificate of.
        different: pictures whose certificates differ.
        identical: number of pictures whose certificates are the same bit by bit, the digest of the served
            tokens among them.
        other_tokens: number of pictures for which that digest differs.
        largest: the largest difference of a number of the same picture, 0 where there is none.
        tolerance: the largest difference of a number that counts as rounding.
    """

    missing: tuple[str, ...]
    double: tuple[str, ...]
    foreign: tuple[str, ...]
    failed: tuple[str, ...]
    different: tuple[Difference, ...]
    identical: int
    other_tokens: int
    largest: float
    tolerance: float

    @property
    def equal(self) -> bool:
        """Whether every picture is in both tables once, with the same certificate."""
        return not (self.missing or self.double or self.foreign or self.failed or self.different)


def compare(pictures: Sequence[str], first: Sequence[Row], second: Sequence[Row]) -> Comparison:
    """Compare two tables: their columns, and the whole certificates that are signed in them.

    Texts, whole numbers and what is absent must be the same, except `OWN`. A number with a fraction may
    differ by as much as `smoothgate verify` allows a score for the arithmetic of the encoder: sums in other
    batches differ in the last bits. The digest of the served tokens may differ with them. It is counted apart
    and decides nothing.

    Args:
        pictures: the paths that belong into the tables.
        first, second: the rows of the tables.
    """
    tables = [first, second]
    counts = [Counter(row["path"] for row in rows) for rows in tables]
    by_path = [{row["path"]: row for row in rows} for rows in tables]
    failed = {row["path"] for rows in tables for row in rows if row["jws"] is None}
    different: list[Difference] = []
    identical, other_tokens, largest, allowed = 0, 0, 0.0, 0.0
    for path in dict.fromkeys(pictures):
        if path in failed or any(path not in rows for rows in by_path):
            continue
        one, other = (_leaves(rows[path]) for rows in by_path)
        tolerance = TOLERANCE.get(str(one.get(_DTYPE)), 0.0)
        allowed = max(allowed, tolerance)
        unequal = [name for name in one | other if one.get(name) != other.get(name)]
        identical += not unequal
        other_tokens += _TOKENS in unequal
        apart = {name: _apart(one.get(name), other.get(name)) for name in unequal if name != _TOKENS}
        largest = max([largest, *(distance for distance in apart.values() if distance is not None)])
        wrong = [name for name, distance in apart.items() if distance is None or distance > tolerance]
        if wrong:
            different.append(Difference(path, wrong[0], one.get(wrong[0]), other.get(wrong[0])))
    known = set(pictures)
    return Comparison(
        missing=tuple(path for path in dict.fromkeys(pictures) if any(not each[path] for each in counts)),
        double=tuple(path for path in dict.fromkeys(pictures) if any(each[path] > 1 for each in counts)),
        foreign=tuple(sorted({path for each in counts for path in each} - known)),
        failed=tuple(sorted(failed)),
        different=tuple(different),
        identical=identical,
        other_tokens=other_tokens,
        largest=largest,
        tolerance=allowed,
    )


def _apart(one: Any, other: Any) -> float | None:
    """How far two numbers are apart, at least one of them with a fraction; None: they are none such."""
    # In JSON, 1.0 may be written as 1.
    fractions = isinstance(one, float) or isinstance(other, float)
    return abs(one - other) if fractions and _is_number(one) and _is_number(other) else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _leaves(row: Row) -> dict[str, Any]:
    """The fields of a row and of its certificate by their paths, without `OWN`."""
    columns: dict[str, Any] = {name: value for name, value in row.items() if name not in OWN}
    signed = content(str(row["jws"]))
    certificate = {name: value for name, value in signed.items() if name not in OWN}
    return leaves(columns | {"certificate": certificate})

"""`python -m tests.families`: run the tests of all families and print the table of docs/models.md."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

_HEAD = (
    "| family | handed over as | noise space | reference | largest difference | 2 images | certified | "
    "32 at once |\n|---|---|---|---|---|---|---|---|"
)
_COLUMNS = ("test_two_images_of_different_size", "test_smoothed_and_certified", "test_mixed_sizes_at_once")


class _Table:
    def __init__(self) -> None:
        self._facts: dict[str, dict[str, object]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep what `test_parity` recorded, and whether the others passed."""
        if report.when != "call" or "test_served.py" not in report.nodeid:
            return
        test, _, family = report.nodeid.rpartition("::")[2].rstrip("]").partition("[")
        facts = self._facts.setdefault(family, {})
        facts[test] = report.outcome
        facts.update(report.user_properties)

    def __str__(self) -> str:
        rows = [
            " | ".join(
                str(facts.get(key, "failed"))
                for key in ("family", "part_type", "space", "reference", "parity", *_COLUMNS)
            )
            for facts in self._facts.values()
        ]
        return "\n".join([_HEAD, *(f"| {row} |" for row in rows)])


def main() -> int:
    """Run them in this process, one engine after another; arguments go to pytest."""
    table = _Table()
    folder = str(Path(__file__).parent)
    status = pytest.main([folder, "-p", "no:xdist", "--override-ini=addopts=", "-q", *sys.argv[1:]], [table])
    print(table)
    return int(status)


if __name__ == "__main__":
    sys.exit(main())

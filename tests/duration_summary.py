"""Where the time of a run went, in its last lines."""

from collections import defaultdict
from pathlib import Path

import pytest

_PHASES = ("setup", "call", "teardown")


class DurationSummary:
    """A plugin of pytest that prints seconds by folder, with or without pytest-xdist.

    The seconds of all workers are added up: two workers that are busy throughout make two seconds a second.
    A fixture counts for the first test that needs it.
    """

    def __init__(self) -> None:
        self._seconds: defaultdict[str, defaultdict[str, float]] = defaultdict(lambda: defaultdict(float))
        self._tests: defaultdict[str, set[str]] = defaultdict(set)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Add the seconds of one phase of a test."""
        folder = str(Path(report.nodeid.partition("::")[0]).parent)
        self._seconds[folder][report.when or ""] += report.duration
        self._tests[folder].add(report.nodeid)

    def pytest_unconfigure(self, config: pytest.Config) -> None:
        """Print the table, the costliest folder first."""
        terminal = config.get_terminal_writer()
        totals = {folder: sum(phases.values()) for folder, phases in self._seconds.items()}
        for line in self._table(totals) if totals else ():
            terminal.line(line)

    def _table(self, totals: dict[str, float]) -> list[str]:
        lines = [f"{'seconds by folder':32}{'tests':>7}{'setup':>9}{'call':>9}{'teardown':>10}{'all':>9}"]
        for folder in sorted(totals, key=totals.__getitem__, reverse=True):
            setup, call, teardown = (self._seconds[folder][phase] for phase in _PHASES)
            lines.append(
                f"{folder:32}{len(self._tests[folder]):7}{setup:9.1f}{call:9.1f}{teardown:10.1f}"
                f"{totals[folder]:9.1f}"
            )
        tests = sum(map(len, self._tests.values()))
        return [*lines, f"{'all':32}{tests:7}{'':28}{sum(totals.values()):9.1f}"]

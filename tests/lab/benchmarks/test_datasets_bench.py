"""`smoothgate bench datasets`: that it finds what is lost, double or different, and that it measures."""

import base64
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest
from typer.testing import CliRunner

from smoothgate.cli.main import app
from smoothgate.datasets.rows import Row
from smoothgate.datasets.run_folder import rows_file
from smoothgate.errors import SmoothgateError
from smoothgate_lab.benchmarks import datasets_bench
from smoothgate_lab.benchmarks.datasets_bench import QUICK
from smoothgate_lab.benchmarks.killed_runs import KilledRun
from smoothgate_lab.benchmarks.table_comparison import Comparison, Difference, compare

PICTURES = ["a.png", "b.png", "c.png"]


def _row(path: str, *, time: str = "now", **certified: Any) -> Row:
    """A row as a run makes it, as far as the comparison looks at it."""
    certificate = {
        "request_id": f"{path} {time}",
        "time": time,
        "model": {"dtype": "float32"},
        "noise": {"seed": "5eed", "n_certify": 256},
        "bounds": [{"eps": 0.25, "fcsb": 0.5}],
        "served_tokens_sha256": "70ce",
    } | certified
    parts = (json.dumps({"alg": "Ed25519"}), json.dumps(certificate), time)
    jws = ".".join(base64.urlsafe_b64encode(part.encode()).decode().rstrip("=") for part in parts)
    return cast(Row, {"path": path, "error_code": None, "time": time, "jws": jws})


def _compared(*second: Row) -> Comparison:
    return compare(PICTURES, [_row(path) for path in PICTURES], second)


@pytest.mark.parametrize("swapped", [False, True])
def test_equal_tables_are_equal_whatever_their_order_times_and_signatures(swapped: bool) -> None:
    rows = [_row(path, time="later") for path in PICTURES]
    found = _compared(*(reversed(rows) if swapped else rows))
    assert found.equal
    assert (found.identical, found.largest, found.tolerance) == (3, 0.0, 1e-5)


def test_a_missing_picture_is_found() -> None:
    found = _compared(_row("a.png"), _row("c.png"))
    assert found.missing == ("b.png",)
    assert not found.equal


def test_a_double_picture_is_found() -> None:
    found = _compared(*map(_row, [*PICTURES, "b.png"]))
    assert found.double == ("b.png",)
    assert not found.equal


def test_a_picture_of_another_set_is_found() -> None:
    found = _compared(*map(_row, [*PICTURES, "d.png"]))
    assert found.foreign == ("d.png",)
    assert not found.equal


def test_a_picture_without_a_certificate_is_found_even_where_both_tables_lack_it() -> None:
    failed = _row("b.png") | {"error_code": "sampler_failed", "jws": None}
    rows = [_row("a.png"), failed, _row("c.png")]
    found = compare(PICTURES, rows, rows)
    assert found.failed == ("b.png",)
    assert not found.equal


@pytest.mark.parametrize(
    ("certified", "field", "first", "second"),
    [
        ({"noise": {"seed": "5eee", "n_certify": 256}}, "noise.seed", "5eed", "5eee"),
        ({"noise": {"seed": "5eed", "n_certify": 255}}, "noise.n_certify", 256, 255),
        ({"bounds": [{"eps": 0.25, "fcsb": 0.50002}]}, "bounds.0.fcsb", 0.5, 0.50002),
        ({"bounds": [{"eps": 0.25, "fcsb": None}]}, "bounds.0.fcsb", 0.5, None),
        ({"bounds": [{"eps": 0.25, "fcsb": 0.5}, {"eps": 1.0}]}, "bounds.1.eps", None, 1.0),
    ],
)
def test_another_certificate_is_found(certified: Any, field: str, first: Any, second: Any) -> None:
    found = _compared(_row("a.png"), _row("b.png", **certified), _row("c.png"))
    assert found.different == (Difference("b.png", f"certificate.{field}", first, second),)
    assert not found.equal


def test_a_column_that_differs_is_found() -> None:
    other = _row("b.png") | {"radius": 0.25}
    found = _compared(_row("a.png"), other, _row("c.png"))
    assert found.different == (Difference("b.png", "radius", None, 0.25),)


def test_rounding_is_no_difference_and_is_told() -> None:
    rounded: dict[str, Any] = {"bounds": [{"eps": 0.25, "fcsb": 0.500001}], "served_tokens_sha256": "70cf"}
    found = _compared(_row("a.png"), _row("b.png", **rounded), _row("c.png"))
    assert found.equal
    assert (found.identical, found.other_tokens) == (2, 1)
    assert found.largest == pytest.approx(1e-6)


def _run(words: str, out: Path, pictures: int) -> KilledRun:
    """A run whose process does something else than to certify."""
    run = KilledRun([], out, pictures, lambda rows: None)
    run._words = [sys.executable, "-c", words]
    return run


def test_a_run_that_ends_before_its_kill_is_no_measurement(tmp_path: Path) -> None:
    out = tmp_path / "table.parquet"
    lines = rows_file(out)
    words = f"""
import pathlib, time
lines = pathlib.Path({str(lines)!r})
lines.parent.mkdir()
lines.write_text("{{}}\\n" * 40)
time.sleep(60)
"""
    with pytest.raises(SmoothgateError, match="take more pictures") as raised:
        _run(words, out, 40).alone()
    assert raised.value.code == "not_killed"
    with pytest.raises(SmoothgateError, match="take more pictures"):
        _run("pass", out, 40).alone()


def test_a_run_that_fails_says_why(tmp_path: Path) -> None:
    out = tmp_path / "table.parquet"
    with pytest.raises(SmoothgateError, match="ended with 3: the disk is full") as raised:
        _run("import sys; print('the disk is full', flush=True); sys.exit(3)", out, 40).on_ray()
    assert raised.value.code == "certify_failed"


def test_no_worker_of_others_is_killed(tmp_path: Path) -> None:
    """Only processes below the command's own count."""
    out = tmp_path / "table.parquet"
    words = f"""
import pathlib, time
lines = pathlib.Path({str(rows_file(out))!r})
lines.parent.mkdir()
lines.write_text("{{}}\\n" * 20)
time.sleep(60)
"""
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", "ray::MapWorker"])
    try:
        with pytest.raises(SmoothgateError, match="There are 0 processes of Ray's workers, not 2"):
            _run(words, out, 40).on_ray()
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_too_few_pictures_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets_bench, "KilledRun", None)
    result = CliRunner().invoke(app, ["bench", "datasets", "--pictures", "39"])
    assert result.exit_code == 1
    assert "39 pictures are too few" in result.output


def test_the_command_fails_where_tables_are_not_equal(monkeypatch: pytest.MonkeyPatch) -> None:
    lost = compare(PICTURES, [_row(path) for path in PICTURES], [_row("a.png"), _row("c.png")])
    figures = {
        "machine": {"device": "cpu", "cores": 2, "torch": "2"},
        "runs": {
            "alone": {"kept": 20, "first_row_seconds": 1.0, "seconds": 2.0},
            "ray": {"kept": 20, "first_row_seconds": 1.0, "seconds": 2.0, "workers": 2},
        },
        "comparisons": [{"tables": ["alone", "ray"], **datasets_bench.shown(PICTURES, lost)}],
        "pace": {"start_seconds": 1.0, "certify": 1.0, "sampler": 1.0, "samples": 56, "ratio": 1.0},
    }
    monkeypatch.setattr(datasets_bench, "run", lambda *_: figures)
    result = CliRunner().invoke(app, ["bench", "datasets", "--quick"])
    assert result.exit_code == 1
    assert "alone and ray: missing: ['b.png']" in result.output


@pytest.mark.long
def test_the_command_kills_compares_and_measures(tmp_path: Path) -> None:
    file = tmp_path / "out.json"
    result = CliRunner().invoke(app, ["bench", "datasets", "--quick", "--json", str(file)])
    assert result.exit_code == 0, result.output
    figures = json.loads(file.read_text())
    for run in figures["runs"].values():
        assert QUICK.pictures // 2 <= run["kept"] < QUICK.pictures
        assert 0 < run["first_row_seconds"] < run["seconds"]
    assert [row["tables"] for row in figures["comparisons"]] == [
        ["alone", "ray"],
        ["alone", "undisturbed"],
        ["ray", "undisturbed"],
    ]
    for row in figures["comparisons"]:
        assert row["equal"]
        assert row["pictures"] == QUICK.pictures
        assert row["largest"] <= row["tolerance"] == 1e-5
    pace = figures["pace"]
    assert pace["samples"] == 56
    assert len(pace["ratios"]) == QUICK.rounds
    assert pace["ratio"] == pytest.approx(statistics.median(pace["ratios"]))
    assert min(pace["certify"], pace["sampler"], pace["start_seconds"]) > 0

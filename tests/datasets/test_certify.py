"""`smoothgate certify` on pictures of the demo model: killed and resumed, and on Ray with a lost worker."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from smoothgate.cli.main import app
from tests import processes
from tests.whole_service import SAMPLES

NUMBER = 14
MACHINE = ("--device", "cpu", "--threads", "1", "--batch-size", "16")
TERMS = ("--n-select", "8", "--n-certify", "48", *MACHINE)
# Not equal from run to run.
_OWN = {"time", "jws"}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sample pictures, each a little other than the rest, and one that is none."""
    folder = tmp_path_factory.mktemp("pictures")
    samples = [np.asarray(Image.open(path).convert("RGB")) for path in sorted(SAMPLES.glob("*.png"))]
    for number in range(NUMBER - 1):
        pixels = samples[number % len(samples)].copy()
        pixels[0, 0] = number
        Image.fromarray(pixels).save(folder / f"{number:03}.png")
    (folder / "broken.png").write_bytes(b"no picture")
    return folder


@pytest.fixture(scope="module")
def secret(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("secret") / "noise"
    path.write_text("0123456789abcdef" * 4)
    return path


@pytest.fixture(scope="module")
def undisturbed(
    pictures: Path, secret: Path, tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, Any]]:
    """The rows of a run in this process."""
    out = tmp_path_factory.mktemp("undisturbed") / "table.parquet"
    result = CliRunner().invoke(app, _words(pictures, out, secret))
    assert result.exit_code == 0, result.output
    assert "At most 0.013 of the certificates are expected to be false" in result.output
    assert re.search(r"bounded +13", result.output)
    assert out.with_suffix(".svg").read_text().startswith("<?xml")
    return _rows(out)


def _words(pictures: Path, out: Path, secret: Path, *more: str) -> list[str]:
    return ["certify", str(pictures), "--out", str(out), "--noise-secret", str(secret), *TERMS, *more]


def _rows(out: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(out).to_pylist()
    return rows


def _numbers(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What does not depend on when a row was made. Sums in other batches differ in the last bits."""
    return [
        {
            name: round(value, 4) if isinstance(value, float) else value
            for name, value in row.items()
            if name not in _OWN
        }
        for row in rows
    ]


def _lines(out: Path) -> int:
    file = out.with_name(f"{out.name}.run") / "rows.jsonl"
    return file.read_bytes().count(b"\n") if file.exists() else 0


def _started(words: list[str], killed_after: int = 0) -> subprocess.Popen[bytes]:
    """The command in a process of its own, which kills itself after so many rows; 0: never."""
    code = f"""
import os, signal, sys
from smoothgate.cli.main import app
from smoothgate.datasets.run_folder import RunFolder

kept = RunFolder.add

def add(self, row):
    kept(self, row)
    if len(self.rows) == {killed_after}:
        os.kill(os.getpid(), signal.SIGKILL)

RunFolder.add = add
app(sys.argv[1:])
"""
    return subprocess.Popen(
        [sys.executable, "-c", code, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def _wait_for_rows(out: Path, number: int, process: subprocess.Popen[bytes]) -> None:
    ends = time.monotonic() + 300
    while _lines(out) < number:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < ends
        time.sleep(0.02)


def test_each_picture_has_a_row_and_each_row_can_be_checked(
    undisturbed: list[dict[str, Any]], tmp_path: Path, pictures: Path, secret: Path
) -> None:
    assert len(undisturbed) == NUMBER
    *good, broken = undisturbed
    assert {row["outcome"] for row in good} == {"bounded"}
    assert broken["error_code"] == "invalid_image"
    assert broken["jws"] is None


def test_a_run_that_is_killed_goes_on_and_ends_with_the_same_table(
    undisturbed: list[dict[str, Any]], tmp_path: Path, pictures: Path, secret: Path
) -> None:
    out = tmp_path / "table.parquet"
    words = _words(pictures, out, secret)
    _, errors = _started(words, killed_after=3).communicate(timeout=300)
    assert _lines(out) == 3, errors.decode()
    assert not out.exists()
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    rows = _rows(out)
    assert _numbers(rows) == _numbers(undisturbed)
    (tmp_path / "one.jws").write_text(rows[0]["jws"])
    keys = str(tmp_path / "table.keys.json")
    checked = CliRunner().invoke(
        app, ["verify", str(tmp_path / "one.jws"), "--keys", keys, "--image", rows[0]["path"]]
    )
    assert checked.exit_code == 0, checked.output


def test_family_wise_alpha_is_shared(tmp_path: Path, pictures: Path, secret: Path) -> None:
    out = tmp_path / "table.parquet"
    two = [str(pictures / "000.png"), str(pictures / "001.png")]
    words = ["certify", *two, "--out", str(out), "--n-certify", "64", "--family-wise", *MACHINE]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert [row["alpha"] for row in _rows(out)] == pytest.approx([0.0005, 0.0005])


@pytest.mark.long
def test_on_ray_every_picture_is_there_once_though_a_worker_is_killed(
    undisturbed: list[dict[str, Any]], tmp_path: Path, pictures: Path, secret: Path
) -> None:
    out = tmp_path / "table.parquet"
    process = _started(_words(pictures, out, secret, "--ray", "--workers", "2"))
    try:
        _wait_for_rows(out, 1, process)
        first, _ = processes.descendants(process.pid, "MapWorker")
        os.kill(first, signal.SIGKILL)
        assert _lines(out) < NUMBER
        said, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors.decode()
    finally:
        process.terminate()  # Ray ends with the driver
        process.communicate(timeout=60)
    assert _numbers(_rows(out)) == _numbers(undisturbed)
    assert b"bounded" in said

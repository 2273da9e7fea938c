"""The soak, for seconds: that it counts what it should, not how the service fares."""

import base64
import io
import os
import subprocess
import sys

import pytest
from PIL import Image

from smoothgate_lab.benchmarks import soak
from smoothgate_lab.benchmarks.serving_bench import picture_uri
from tests.families import tiny_model
from tests.whole_service import Gate


@pytest.mark.engine
@pytest.mark.parametrize("kind", ["picture", "stream", "text"])
def test_a_short_soak_loses_nothing_and_reads_memory(
    kind: str, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(soak, "_READ_EVERY_SECONDS", 0.01)
    assert kind in soak._MIX
    monkeypatch.setattr(soak, "_MIX", {kind: 1.0})
    seen: list[float] = []
    # Each client asks at least once, however long an answer takes.
    figures = soak.run(gate.url, os.getpid(), 0.5, 3, 1, seen.append)
    assert figures["lost"] == []
    assert set(figures["statuses"]) == {"200"}
    assert set(figures["latency"]) == {kind, "all"}
    assert figures["requests"] == figures["latency"]["all"]["n"] == figures["latency"][kind]["n"] >= 3
    for row in figures["latency"].values():
        assert 0 < row["p50"] <= row["p99"]
        assert row["ratio"] == pytest.approx(row["p99"] / row["p50"])
    assert 2**28 < figures["memory"]["start"] < 2**35
    assert seen == sorted(seen)


def test_pictures_have_sizes_within_and_beyond_the_canvas_of_the_model_that_make_soak_serves() -> None:
    for size in soak._SIZES:
        data = base64.b64decode(picture_uri(1, size).partition(",")[2])
        assert Image.open(io.BytesIO(data)).size == size
    pixels = [width * height for width, height in soak._SIZES]
    assert min(pixels) < tiny_model.MOST_PIXELS < max(pixels)


@pytest.mark.long
def test_the_program_of_make_soak_starts() -> None:
    command = [sys.executable, "-m", "tests.soak", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Load the service fully" in done.stdout


def test_what_is_hostile_is_refused_and_counted(quick_gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "hostile" in soak._MIX
    monkeypatch.setattr(soak, "_MIX", {"hostile": 1.0})
    figures = soak.run(quick_gate.url, None, 0.3, 2, 1, lambda now: None)
    assert figures["lost"] == []
    assert set(figures["statuses"]) == {"422"}
    assert figures["latency"] == {}


def test_what_has_no_answer_is_lost_and_not_counted_as_answered() -> None:
    figures = soak.run("http://127.0.0.1:9", None, 0.3, 2, 1, lambda now: None)
    assert figures["lost_count"] == figures["requests"] > 0
    assert figures["latency"] == {}
    assert figures["memory"] is None
    assert len(figures["lost"]) <= 20


def test_growth_is_measured_after_the_warm_up() -> None:
    readings = [(float(t), 10e8 if t < 100 else 1e9 + 1e5 * t) for t in range(300)]
    found = soak._memory(readings)
    assert found is not None
    assert found["slope"] == pytest.approx(1e5 * 3600, rel=0.01)
    assert found["growth"] == pytest.approx(0.018, abs=0.002)

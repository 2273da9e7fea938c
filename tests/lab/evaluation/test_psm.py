"""`smoothgate psm evaluate`, small: what its figures mean, not how good they are."""

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from smoothgate.bundled import DEMO
from smoothgate.cli.main import app
from smoothgate.psm.unit_encoder import UnitEncoder
from smoothgate.vision import load
from smoothgate_lab.demo.digit_scenes import DigitScenes
from smoothgate_lab.evaluation.psm_evaluation import Sampling, run

SAMPLING = Sampling(sigmas=(0.5,), eps=(0.1, 0.5), n_select=32, n_certify=96, alpha=0.001, seed=3)


@pytest.fixture(scope="module")
def encoder() -> UnitEncoder:
    adapter = load(str(DEMO.model), device="cpu", dtype=torch.float32)
    return UnitEncoder.load(adapter, DEMO.psm)


@pytest.mark.long
def test_the_parts_are_told_apart(encoder: UnitEncoder) -> None:
    figures = run(encoder, ["identity", "both"], DigitScenes(encoder.adapter, 8, 4, 5), SAMPLING)
    assert (figures["n"], figures["twins"]) == (8, 4)
    assert figures["psm_digest"] == encoder.psm_digest
    bare, both = figures["rows"]
    assert (bare["part"], both["part"]) == ("identity", "both")
    assert both["clean_cosine"] > bare["clean_cosine"] + 0.1
    for row in (bare, both):
        assert row["score_lower"] < row["score"] < 1
        assert row["fcsb"]["0.5"] < row["fcsb"]["0.1"]
        assert row["fcsb"]["0.1"] >= row["fcsb_mean_bound"]["0.1"]
        assert set(row["accuracy"]) == {"digit", "ink", "background", "pattern", "parity", "describe"}
    assert figures["undefended"]["accuracy"]["digit"] == 1
    # What is drawn depends on the seed alone.
    again = run(encoder, ["both"], DigitScenes(encoder.adapter, 8, 4, 5), SAMPLING)
    assert again["rows"][0]["score"] == pytest.approx(both["score"], abs=1e-6)


@pytest.mark.long
def test_the_command_takes_lists_and_writes_json_and_a_plot(tmp_path: Path) -> None:
    words = ["psm", "evaluate", "--sigma", "0.25", "0.5", "--eps", "0.1", "0.3", "--part", "mapper", "both"]
    small = ["--n", "8", "--twins", "2", "--n-select", "16", "--n-certify", "64"]
    files = ["--json", str(tmp_path / "psm.json"), "--plot", str(tmp_path / "psm.svg")]
    result = CliRunner().invoke(app, words + small + files)
    assert result.exit_code == 0, result.output
    assert "Exact match of answers" in result.output
    rows = json.loads((tmp_path / "psm.json").read_text())["rows"]
    assert [(row["part"], row["sigma"]) for row in rows] == [
        (part, sigma) for part in ("mapper", "both") for sigma in (0.25, 0.5)
    ]
    assert list(rows[0]["fcsb"]) == ["0.1", "0.3"]
    assert "<svg" in (tmp_path / "psm.svg").read_text()


def test_pictures_of_a_folder_have_no_answers(tmp_path: Path) -> None:
    small = ["--n", "8", "--n-select", "16", "--n-certify", "64", "--part", "both", "--sigma", "0.5"]
    (tmp_path / "pictures").mkdir()
    for i in range(3):
        for source in DEMO.samples.iterdir():
            (tmp_path / "pictures" / f"{i}-{source.name}").write_bytes(source.read_bytes())
    words = ["psm", "evaluate", "--images", str(tmp_path / "pictures"), *small]
    result = CliRunner().invoke(app, [*words, "--json", str(tmp_path / "out.json")])
    assert result.exit_code == 0, result.output
    figures = json.loads((tmp_path / "out.json").read_text())
    assert figures["n"] == 8
    assert figures["rows"][0]["accuracy"] == {}
    assert figures["rows"][0]["twin_cosine"] is None


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--part", "half"], "none of identity"),
        (["--model", "somewhere"], "--psm"),
    ],
)
def test_what_cannot_be_is_said(words: list[str], reason: str) -> None:
    result = CliRunner().invoke(app, ["psm", "evaluate", *words])
    assert result.exit_code == 1
    assert reason in result.output

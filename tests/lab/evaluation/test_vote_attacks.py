"""Attacks on votes: they lower them, refute no certificate, and do refute one that says too much."""

import gzip
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from smoothgate.certify.votes import radius_of
from smoothgate.cli.main import app
from smoothgate_lab.evaluation.asked_scenes import demo_scenes
from smoothgate_lab.evaluation.vote_attacks import (
    AttackedVote,
    AttackTerms,
    CertifiedPicture,
    VoteAttacks,
    figures,
    upper_bound,
)
from smoothgate_lab.evaluation.vote_samples import VoteSamples

RESULTS = Path(__file__).parents[3] / "docs" / "results"
SEED = 24


def samples(folder: Path) -> VoteSamples:
    """With the published samples."""
    (folder / "votes.jsonl").write_bytes(gzip.decompress((RESULTS / "votes.jsonl.gz").read_bytes()))
    return VoteSamples(folder, SEED, demo_scenes(SEED))


def overstated(picture: CertifiedPicture) -> CertifiedPicture:
    """The same votes, as if the noise had been five times as strong."""
    said = replace(picture.statement, terms=replace(picture.statement.terms, sigma=2.5))
    radius = radius_of(said.p_low, said.p_up, 2.5)
    assert radius is not None
    return replace(picture, statement=said, radius=radius)


def test_attacks_lower_votes_and_refute_only_a_certificate_that_says_too_much(tmp_path: Path) -> None:
    terms = AttackTerms(steps=8, draws=4, fresh=96, seed=SEED)
    attacks = VoteAttacks(samples(tmp_path), tmp_path, terms)
    (first, *_) = attacks.pictures(3)
    attacks.run([first], [1.0, 3.0], lambda: None)
    inside, outside = attacks.lines()
    assert inside.l2 == pytest.approx(first.radius, rel=0.01)
    assert outside.l2 > 2 * inside.l2
    assert not inside.refutes
    assert not outside.refutes
    assert inside.hits > outside.hits
    assert inside.floor > 0.5 - 0.01
    # A run goes on where it ended: nothing is left to do.
    attacks.run([first], [1.0, 3.0], lambda: None)
    assert attacks.lines() == [inside, outside]

    (tmp_path / "attacks.jsonl").unlink()
    attacks.run([overstated(first)], [1.0], lambda: None)
    (caught,) = attacks.lines()
    assert caught.refutes


def test_rows_count_what_is_refuted_and_what_has_turned() -> None:
    held = AttackedVote("", 0, 1.0, 0, 1.1, 1.0, 1.1, 90, 10, 100, 0.5, upper_bound(90, 100))
    turned = replace(held, scene=1, hits=40, rival=60, upper=upper_bound(40, 100))
    refuted = replace(turned, scene=2, hits=20, rival=80, upper=upper_bound(20, 100))
    assert not turned.refutes, "40 of 100 are compatible with a half"
    (row,) = figures([held, turned, refuted])
    assert (row["pictures"], row["refuted"], row["turned_count"]) == (3, 1, 2)
    assert row["least"] == 0.2
    assert row["after"] == pytest.approx(0.5)


def test_the_published_attacks_refute_nothing(tmp_path: Path) -> None:
    samples(tmp_path)
    (tmp_path / "attacks.jsonl").write_bytes(
        gzip.decompress((RESULTS / "attacked-votes.jsonl.gz").read_bytes())
    )
    command = ["demo", "attack-votes", "--output", str(tmp_path), "--report-only"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    table = (tmp_path / "attacked-votes.md").read_text()
    assert table == (RESULTS / "attacked-votes.md").read_text()
    assert "<svg" in (tmp_path / "attacked-votes.svg").read_text()


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_no_attack_refutes_a_published_certificate(tmp_path: Path) -> None:
    """With starts and noise that the published attacks do not have. `make votes` attacks more, for hours."""
    attacks = VoteAttacks(samples(tmp_path), tmp_path, AttackTerms(seed=SEED + 1))
    pictures = attacks.pictures(15)
    assert len(pictures) >= 10
    attacks.run(pictures, [0.5, 0.75, 1.0], lambda: None)
    lines = attacks.lines()
    assert len(lines) == 3 * len(pictures)
    assert not [line for line in lines if line.refutes]
    assert all(line.upper >= 0.5 for line in lines if line.l2 <= line.radius)

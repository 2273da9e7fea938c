"""Lists of pictures, rows, the folder of a run, and the summary: no model is needed."""

import io
import json
from pathlib import Path
from typing import Any, cast

import pyarrow.parquet as pq
import pytest

from smoothgate.certify.signing import SigningKey
from smoothgate.datasets.picture_lists import listed
from smoothgate.datasets.rows import Row, row_of
from smoothgate.datasets.run_folder import RunFolder, keys_file
from smoothgate.datasets.summary import Summary, plot
from smoothgate.errors import MalformedRequest, SmoothgateError, Unacceptable

TERMS = {"sigma": 0.5, "alpha": 0.001}


def _row(path: str, **fields: Any) -> Row:
    return cast(Row, {**row_of(path, None, None), **fields})


def _folder(tmp_path: Path) -> Path:
    (tmp_path / "inner").mkdir()
    for name in ("b.png", "inner/a.jpg", "note.md"):
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


def test_pictures_are_found_in_folders_patterns_and_lists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = _folder(tmp_path)
    both = [str(folder / "b.png"), str(folder / "inner/a.jpg")]
    assert listed([str(folder)]) == both
    assert listed([str(folder / "**/*.jpg")]) == both[1:]
    (folder / "list.txt").write_text(f"{both[1]}\n\n{both[0]}\n")
    assert listed([str(folder / "list.txt"), both[0]]) == both[::-1]
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{both[0]}\n"))
    assert listed(["-"]) == both[:1]


@pytest.mark.parametrize(
    ("given", "kind"),
    [("nothing/*.png", Unacceptable), ("missing.txt", MalformedRequest), (".", SmoothgateError)],
)
def test_where_there_are_none_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str, kind: type[SmoothgateError]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(kind):
        listed([given])


def test_a_run_goes_on_where_it_was_and_makes_one_table(tmp_path: Path) -> None:
    out = tmp_path / "certificates.parquet"
    with RunFolder(out, TERMS) as run:
        run.add(_row("a", outcome="bounded"))
        secret, key = run.noise_secret.read_text(), run.signing_key.read_text()
    rows = out.with_name("certificates.parquet.run") / "rows.jsonl"
    # A crash in the middle of a line.
    rows.write_text(rows.read_text() + '{"path": "b", "err')
    with RunFolder(out, TERMS) as run:
        assert run.noise_secret.read_text() == secret
        assert run.noise_secret.stat().st_mode & 0o077 == run.signing_key.stat().st_mode & 0o077 == 0
        assert list(run.rows) == ["a"]
        run.add(_row("b", error_code="unreadable_file"))
        run.add(_row("a", outcome="vacuous"))
        run.finish(["b", "a"])
    made = pq.read_table(out).to_pylist()
    assert [(row["path"], row["outcome"]) for row in made] == [("b", None), ("a", "bounded")]
    assert SigningKey.load(key).kid == json.loads(keys_file(out).read_text())["keys"][0]["kid"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "certificates.keys.json",
        "certificates.parquet",
    ]
    with pytest.raises(Unacceptable, match="exists already"):
        RunFolder(out, TERMS)


def test_other_terms_are_refused_by_name(tmp_path: Path) -> None:
    out = tmp_path / "certificates.parquet"
    with RunFolder(out, TERMS):
        pass
    with pytest.raises(Unacceptable, match=r"other terms \(alpha\)"):
        RunFolder(out, TERMS | {"alpha": 0.01})


def test_the_summary_counts_failures_as_not_certified() -> None:
    rows = [
        _row("a", outcome="bounded", radius=0.5, alpha=0.001, model_digest="m"),
        _row("b", outcome="certified", radius=1.0, alpha=0.001, model_digest="m"),
        _row("c", outcome="vacuous", radius=2.0, alpha=0.001, model_digest="n"),
        _row("d", error_code="unreadable_file"),
    ]
    summary = Summary.of(rows)
    assert [summary.share(radius) for radius in (0.0, 0.5, 0.6, 1.0, 1.1)] == [0.5, 0.5, 0.25, 0.25, 0.0]
    assert summary.outcomes == {"bounded": 1, "certified": 1, "vacuous": 1}
    assert summary.errors == {"unreadable_file": 1}
    assert summary.false_statements == pytest.approx(0.003)
    assert summary.median_radius == 0.75
    assert summary.models == ("m", "n")
    assert plot(summary).startswith("<?xml")

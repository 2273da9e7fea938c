import json
from pathlib import Path

import pytest

from smoothgate.gate.certificate_store import FILE, MOST_FOUND, CertificateStore


def _lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_lines_are_appended(tmp_path: Path) -> None:
    for number in range(3):
        # A store opened anew goes on where the last one stopped.
        CertificateStore(tmp_path / "new", max_bytes=10_000, files=2).append(
            f"jws{number}", [0.5], [0.25, 1.0]
        )
    lines = _lines(tmp_path / "new" / FILE)
    assert [line["jws"] for line in lines] == ["jws0", "jws1", "jws2"]
    assert lines[0]["certification_scores"] == [0.25, 1.0]


def test_nobody_else_may_read_it(tmp_path: Path) -> None:
    CertificateStore(tmp_path, max_bytes=10_000, files=2).append("jws", [], [])
    assert (tmp_path / FILE).stat().st_mode & 0o077 == 0


def test_files_are_rotated_and_the_oldest_goes(tmp_path: Path) -> None:
    store = CertificateStore(tmp_path, max_bytes=150, files=3)
    for number in range(9):
        store.append(f"{number}", [0.5] * 5, [0.5] * 5)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [FILE, f"{FILE}.1", f"{FILE}.2"]
    kept = [line["jws"] for name in reversed(names) for line in _lines(tmp_path / name)]
    assert kept == [str(number) for number in range(9 - len(kept), 9)]
    assert all(path.stat().st_size <= 150 for path in tmp_path.iterdir())


def test_one_file_is_enough(tmp_path: Path) -> None:
    store = CertificateStore(tmp_path, max_bytes=150, files=1)
    for number in range(5):
        store.append(f"{number}", [0.5] * 5, [0.5] * 5)
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


def test_a_full_disk_is_an_error_and_leaves_whole_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = CertificateStore(tmp_path, max_bytes=10_000, files=2)
    store.append("first", [], [])
    import os

    write = os.write
    with monkeypatch.context() as full:
        full.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:10]))
        with pytest.raises(OSError, match="full"):
            store.append("second", [], [])
    store.append("third", [], [])
    assert [line["jws"] for line in _lines(tmp_path / FILE)] == ["first", "third"]


def test_numbers_that_json_cannot_hold_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        CertificateStore(tmp_path, max_bytes=10_000, files=2).append("jws", [float("nan")], [])


def test_certificates_are_found_by_request_and_client(tmp_path: Path) -> None:
    store = CertificateStore(tmp_path, max_bytes=300, files=3)
    assert store.find("a", None) == []
    for number in range(6):
        name = "a" if number % 2 else "ab"
        store.append(f"jws{number}", [], [], request_id=name, client="alice" if number < 4 else None)
    assert len(list(tmp_path.iterdir())) > 1
    assert store.find("a", "alice") == ["jws1", "jws3"]
    assert store.find("a", None) == ["jws5"]
    assert store.find("ab", None) == ["jws4"]
    assert store.find("a", "bob") == store.find("b", "alice") == []


def test_a_line_that_is_being_written_is_not_found(tmp_path: Path) -> None:
    store = CertificateStore(tmp_path, max_bytes=10_000, files=1)
    store.append("whole", [], [], request_id="a")
    line = (tmp_path / FILE).read_bytes()
    (tmp_path / FILE).write_bytes(line + line[:-1])
    assert store.find("a", None) == ["whole"]


def test_of_a_request_id_that_is_used_again_and_again_the_latest_are_found(tmp_path: Path) -> None:
    store = CertificateStore(tmp_path, max_bytes=10**6, files=1)
    for number in range(MOST_FOUND + 5):
        store.append(f"jws{number}", [], [], request_id="a")
    assert store.find("a", None) == [f"jws{number}" for number in range(5, MOST_FOUND + 5)]

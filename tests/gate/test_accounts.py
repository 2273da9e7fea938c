"""Keys and their file."""

import json
import stat
from pathlib import Path

import pytest
from typer.testing import CliRunner

from smoothgate.cli.main import app
from smoothgate.errors import SmoothgateError
from smoothgate.gate import accounts
from smoothgate.gate.accounts import AccountBook


def _command(*words: str) -> str:
    result = CliRunner().invoke(app, ["accounts", *words])
    assert result.exit_code == 0, result.output
    return result.output.strip()


def test_a_key_is_shown_once_and_kept_as_a_hash(tmp_path: Path) -> None:
    file = tmp_path / "accounts.json"
    key = _command("add", "alice", "--file", str(file), "--requests-per-minute", "60")
    other = _command("add", "bob", "--file", str(file), "--samples-per-minute", "5000")
    limits = ("--tokens-per-minute", "70000", "--concurrent-requests", "3")
    _command("add", "carol", "--file", str(file), *limits)
    carol = accounts.load(file)[-1]
    assert (carol.tokens_per_minute, carol.concurrent_requests) == (70000, 3)
    assert key.startswith("sg-")
    assert len(key) > 40
    assert key != other
    assert key not in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    book = AccountBook(file)
    found = book.find(key)
    assert found is not None
    assert (found.name, found.requests_per_minute, found.samples_per_minute) == ("alice", 60, None)
    for wrong in ("", key[:-1], key + "x", key.upper(), "sg-", "\udcff", found.key_sha256):
        assert book.find(wrong) is None
    listing = _command("list", "--file", str(file))
    assert "alice" in listing
    assert "5000" in listing
    assert found.key_sha256 not in listing


def test_a_key_taken_out_is_good_for_nothing_once_the_file_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "accounts.json"
    key = _command("add", "alice", "--file", str(file))
    book = AccountBook(file)
    assert not book.refresh()
    _command("remove", "alice", "--file", str(file))
    assert book.find(key) is not None
    assert book.refresh()
    assert book.find(key) is None


def test_a_file_that_became_unusable_leaves_the_old_accounts(tmp_path: Path) -> None:
    file = tmp_path / "accounts.json"
    key = _command("add", "alice", "--file", str(file))
    book = AccountBook(file)
    file.write_text("[{")
    with pytest.raises(SmoothgateError):
        book.refresh()
    assert book.find(key) is not None
    assert not book.refresh(), "once is enough until it changes again"
    file.unlink()
    with pytest.raises(SmoothgateError):
        book.refresh()
    assert book.find(key) is not None


ACCOUNT = {"name": "a", "key_sha256": "0" * 64}


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{}",
        '["a"]',
        json.dumps([{"name": "a"}]),
        json.dumps([ACCOUNT | {"key_sha256": "short"}]),
        json.dumps([ACCOUNT | {"requests_per_minute": 0}]),
        json.dumps([ACCOUNT | {"admin": True}]),
        json.dumps([ACCOUNT | {"name": "a b"}]),
        json.dumps([ACCOUNT, ACCOUNT]),
    ],
)
def test_an_unusable_file_is_refused_without_showing_what_it_holds(tmp_path: Path, content: str) -> None:
    file = tmp_path / "accounts.json"
    file.write_text(content)
    with pytest.raises(SmoothgateError) as caught:
        accounts.load(file)
    assert caught.value.code == "bad_accounts"
    assert "accounts.json" in caught.value.message
    assert "short" not in caught.value.message
    assert CliRunner().invoke(app, ["accounts", "list", "--file", str(file)]).exit_code == 1


def test_names_are_taken_once_and_are_plain(tmp_path: Path) -> None:
    file = str(tmp_path / "accounts.json")
    _command("add", "alice", "--file", file)
    for name, words in (("alice", "already"), ("a b", "letters"), ("x" * 65, "letters")):
        result = CliRunner().invoke(app, ["accounts", "add", name, "--file", file])
        assert result.exit_code == 1
        assert words in result.output
    assert CliRunner().invoke(app, ["accounts", "remove", "bob", "--file", file]).exit_code == 1

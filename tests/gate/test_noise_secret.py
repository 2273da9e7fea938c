from pathlib import Path

import pytest
from typer.testing import CliRunner

from smoothgate.cli.main import app
from smoothgate.errors import SmoothgateError
from smoothgate.gate.build import build
from smoothgate.gate.smoother_loading import load_noise_seeds
from smoothgate.settings import Settings
from tests.captured_log import captured


def test_the_command_makes_a_secret_that_is_read_again(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for path in (one, two):
        assert CliRunner().invoke(app, ["keys", "noise-secret", "--output", str(path)]).exit_code == 0
        assert path.stat().st_mode & 0o077 == 0
    assert CliRunner().invoke(app, ["keys", "noise-secret", "--output", str(one)]).exit_code == 1
    assert load_noise_seeds(one).secret_digest == load_noise_seeds(one).secret_digest
    assert load_noise_seeds(one).secret_digest != load_noise_seeds(two).secret_digest


def test_whitespace_around_a_secret_does_not_count(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("s" * 32)
    (tmp_path / "b").write_text(" " + "s" * 32 + "\r\n")
    digests = {load_noise_seeds(tmp_path / name).secret_digest for name in ("a", "b")}
    assert len(digests) == 1


@pytest.mark.parametrize("content", [None, b"", b"s" * 31 + b"\n"])
def test_a_secret_that_cannot_be_used_ends_the_start(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "secret"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(SmoothgateError, match=str(file)) as refused:
        build(Settings(_env_file=None, engine="none", noise_secret_file=file))
    assert refused.value.code == "bad_noise_secret"


def test_a_secret_made_at_the_start_is_warned_about() -> None:
    with captured() as logs:
        load_noise_seeds(None)
    (entry,) = logs
    assert entry["log_level"] == "warning"
    assert "SMOOTHGATE_NOISE_SECRET_FILE" in entry["event"]

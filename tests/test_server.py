"""`smoothgate serve` where it cannot start: the reason is said, and nothing is left behind."""

import asyncio
import json
import os
import shlex
import socket
import subprocess
import sys
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from pydantic import ValidationError
from rich.console import Console
from typer.testing import CliRunner

from smoothgate import logs, server
from smoothgate.bundled import CANARY, DEMO
from smoothgate.cli import setting_errors
from smoothgate.cli.main import app
from smoothgate.engine import EngineState
from smoothgate.errors import SmoothgateError
from smoothgate.gate.service import Service
from smoothgate.server import serve
from smoothgate.settings import Settings
from tests import processes
from tests.captured_log import captured

CONSOLE = {"SMOOTHGATE_LOG_FORMAT": "console"}
COMMAND = [sys.executable, "-c", "from smoothgate.cli.main import app; app()", "serve"]


@pytest.fixture(autouse=True)
def _log_of_the_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    """A start in this process leaves the log of all tests as it is."""
    monkeypatch.setattr(logs, "configure", lambda log_format, level: None)


def test_a_start_that_fails_says_why_and_leaves_no_process() -> None:
    variables = {"SMOOTHGATE_N_CERTIFY": "4", "SMOOTHGATE_PORT": "18765", "COLUMNS": "400"}
    result = subprocess.run(
        COMMAND,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=120,
        stdin=subprocess.DEVNULL,
    )
    assert result.returncode == 1, result.stderr
    assert result.stdout == ""
    *_, last = map(json.loads, result.stderr.splitlines())
    assert last["event"] == "not started"
    assert "the smallest number that could is" in last["reason"]
    assert not [line for line in processes.descendants(os.getpid()).values() if "18765" in line]


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        ({"SMOOTHGATE_SIGMA": "5"}, "SMOOTHGATE_SIGMA=5 is not within SMOOTHGATE_SIGMA_MIN=0.02"),
        ({"SMOOTHGATE_HOST": "0.0.0.0"}, "can be reached from elsewhere: set SMOOTHGATE_ACCOUNTS"),
        (
            {"SMOOTHGATE_HOST": "0.0.0.0", "SMOOTHGATE_ANONYMOUS": "true"},
            "can be reached from elsewhere: set SMOOTHGATE_SIGNING_KEY_FILE",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_named(variables: dict[str, str], reason: str) -> None:
    with captured() as lines:
        result = CliRunner().invoke(app, ["serve"], env=variables)
    assert result.exit_code == 2
    (line,) = lines
    assert reason in line["reason"]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"accounts": "/nowhere/accounts.json"}, "SMOOTHGATE_ACCOUNTS: .*accounts.json cannot be read"),
        ({"url_hosts": "10.0.0.1"}, "SMOOTHGATE_URL_HOSTS"),
        ({"signing_key_file": "/nowhere/key.pem"}, "SMOOTHGATE_SIGNING_KEY_FILE: .*key.pem cannot be used"),
        ({"noise_secret_file": "/nowhere/noise"}, "SMOOTHGATE_NOISE_SECRET_FILE: .*noise cannot be used"),
        ({"store": "/proc/nowhere"}, "SMOOTHGATE_STORE: .*/proc/nowhere cannot be used"),
        ({"model": "/nowhere/model"}, "^SMOOTHGATE_MODEL: There is no folder /nowhere/model"),
        ({"model": str(DEMO.psm)}, "^SMOOTHGATE_MODEL: .*/psm holds no config.json"),
        ({"model": str(DEMO.model)}, "^SMOOTHGATE_PSM is not set"),
        ({"psm": "/nowhere/psm"}, "^SMOOTHGATE_PSM: There is no folder /nowhere/psm"),
        ({"psm": str(DEMO.samples)}, "^SMOOTHGATE_PSM: .* holds no calibration.safetensors"),
        ({"device": "cuda:99"}, "^SMOOTHGATE_DEVICE: cuda:99 is not there: PyTorch"),
        ({"engine_args": "--port 3"}, "^SMOOTHGATE_ENGINE_ARGS: --port cannot be set"),
        (
            {"host": "nowhere.invalid", "anonymous": True, "ephemeral_key": True},
            "^Cannot listen on port .* of now",
        ),
        ({"host": "203.0.113.7", "anonymous": True, "ephemeral_key": True}, "no address of this machine"),
    ],
)
def test_what_cannot_be_used_is_said_before_anything_starts(fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(SmoothgateError, match=reason):
        serve(Settings(_env_file=None, port=18766, **fields), Console(file=StringIO()))


def test_a_port_in_use_is_said_before_anything_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "build", lambda settings: pytest.fail("something was loaded"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            SmoothgateError, match=rf"^Port {port} of 127.0.0.1 is in use: .* --port or SMOOTHG"
        ):
            serve(Settings(_env_file=None, port=port), Console(file=StringIO()))


@pytest.mark.parametrize(
    ("arguments", "variables", "said"),
    [
        ([], {"SMOOTHGATE_PORT": "abc"}, "SMOOTHGATE_PORT must be a whole number, not abc."),
        (["--port", "70000"], {}, "--port must be at most 65535, not 70000."),
        (["--sigma", "7"], {}, "SMOOTHGATE_SIGMA=7 is not within SMOOTHGATE_SIGMA_MIN=0.02 and"),
        ([], {"SMOOTHGATE_EPS": "0.5,0.2"}, "SMOOTHGATE_EPS=0.5,0.2: give one or more radii above 0"),
        (
            [],
            {"SMOOTHGATE_DEVICE": "tpu"},
            "SMOOTHGATE_DEVICE=tpu is not a value of this setting. Where the ",
        ),
        (
            [],
            {"SMOOTHGATE_POLICY": "enforce"},
            "SMOOTHGATE_POLICY=enforce needs SMOOTHGATE_POLICY_COSINE and",
        ),
        (
            [],
            {"SMOOTHGATE_ENGINE_URL": "vllm:8000"},
            "SMOOTHGATE_ENGINE_URL=vllm:8000 is not a value of this",
        ),
    ],
)
def test_a_setting_that_is_refused_is_named_with_its_value_in_one_line(
    arguments: list[str], variables: dict[str, str], said: str
) -> None:
    result = CliRunner().invoke(app, ["serve", *arguments], env=variables | CONSOLE)
    assert result.exit_code == 2
    (line,) = result.output.splitlines()
    assert line.startswith(said)


def test_misspelt_variables_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SMOOTHGATE_PORTT", "9000")
    assert setting_errors.unknown_variables() == [
        "SMOOTHGATE_PORTT is no setting, and is ignored. Did you mean SMOOTHGATE_PORT?"
    ]
    monkeypatch.delenv("SMOOTHGATE_PORTT")
    assert setting_errors.unknown_variables() == []
    monkeypatch.chdir(tmp_path)
    Path(".env").write_text("SMOOTHGATE_SIGMMA=1\nOTHER=2\n")
    result = CliRunner().invoke(app, ["serve"], env=CONSOLE)
    assert result.exit_code == 2
    assert result.output == "SMOOTHGATE_SIGMMA in .env is no setting. Did you mean SMOOTHGATE_SIGMA?\n"


def test_a_secret_that_is_refused_is_not_shown() -> None:
    with pytest.raises(ValidationError) as caught:
        Settings(_env_file=None, engine_api_key=cast(Any, ["hunter2"]))
    (said,) = setting_errors.sentences(caught.value, ())
    assert said.startswith("SMOOTHGATE_ENGINE_API_KEY must be")
    assert "hunter2" not in said


@pytest.mark.parametrize(
    ("fields", "question", "sample"),
    [
        ({}, "What digit is shown?", DEMO.samples / DEMO.sample),
        ({"model": "other", "psm": "psm"}, "What is shown?", CANARY),
    ],
    ids=["demo", "other"],
)
def test_what_to_try_first_is_what_the_model_answers(
    fields: dict[str, Any], question: str, sample: Path
) -> None:
    ask, _ = server._commands(Settings(_env_file=None, **fields))
    words = shlex.split(ask.partition(" | ")[0])
    assert f"message={question}" in words
    (image,) = [word.removeprefix("image=@") for word in words if word.startswith("image=@")]
    assert Path(image).samefile(sample)


def test_the_start_shows_what_it_waits_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not vLLM, where vLLM is ready and the devices are being measured."""
    waits = iter(
        [
            {"engine": EngineState.NEW.value, "encoder": "loading"},
            {"sampler": "not measured yet"},
            {},
        ]
    )
    service = SimpleNamespace(
        model=SimpleNamespace(name="demo"), health=SimpleNamespace(problems=lambda: next(waits))
    )
    monkeypatch.setattr(server, "_POLL_SECONDS", 0.0)
    monkeypatch.setattr(server, "_SAID_EVERY", 1)
    said = StringIO()
    console = Console(file=said, width=200)
    settings = Settings(_env_file=None)
    to_try = server._commands(settings)
    asyncio.run(server._announce(cast(Service, service), settings, to_try, lambda: True, console))
    lines = said.getvalue().splitlines()
    assert lines[:2] == [
        "Starting demo for 0 s. vLLM: not started yet; encoder: loading",
        "Starting demo for 0 s. sampler: not measured yet",
    ]
    assert said.getvalue().count("answers at") == 1
    assert "curl http://127.0.0.1:8000/v1/chat -F 'message=What digit is shown?'" in said.getvalue()
    assert "verify answer.json --keys http://127.0.0.1:8000/.well-known/jwks.json" in said.getvalue()

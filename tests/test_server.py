"""`smoothgate serve` where it cannot start: the reason is said, and nothing is left behind."""

import asyncio
import os
import subprocess
import sys
from io import StringIO
from types import SimpleNamespace
from typing import Any, cast

import pytest
from rich.console import Console
from typer.testing import CliRunner

from smoothgate import server
from smoothgate.cli import app
from smoothgate.errors import SmoothgateError
from smoothgate.gate.service import Service
from smoothgate.server import serve
from smoothgate.settings import Settings
from tests import processes

COMMAND = [sys.executable, "-c", "from smoothgate.cli import app; app()", "serve"]


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
    assert "the smallest number that could is" in result.stderr
    assert not [line for line in processes.descendants(os.getpid()).values() if "18765" in line]


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        ({"SMOOTHGATE_SIGMA": "5"}, "sigma 5.0 is not within"),
        ({"SMOOTHGATE_HOST": "0.0.0.0"}, "can be reached from elsewhere: set accounts"),
        (
            {"SMOOTHGATE_HOST": "0.0.0.0", "SMOOTHGATE_ANONYMOUS": "true"},
            "can be reached from elsewhere: set signing_key_file",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_named(variables: dict[str, str], reason: str) -> None:
    result = CliRunner().invoke(app, ["serve"], env=variables | {"COLUMNS": "400"})
    assert result.exit_code == 2
    assert reason in " ".join(result.output.split())


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"accounts": "/nowhere/accounts.json"}, "cannot be read"),
        ({"url_hosts": "10.0.0.1"}, "SMOOTHGATE_URL_HOSTS"),
        ({"signing_key_file": "/nowhere/key.pem"}, "key.pem cannot be used"),
        ({"model": "/nowhere/model"}, "SMOOTHGATE_PSM is not set"),
    ],
)
def test_what_cannot_be_used_is_said_before_anything_starts(fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(SmoothgateError, match=reason):
        serve(Settings(_env_file=None, **fields), Console(file=StringIO()))


def test_the_start_shows_what_it_waits_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not vLLM, where vLLM is ready and the devices are being measured."""
    waits = iter([{"encoder": "loading"}, {"sampler": "not measured yet"}, {}])
    service = SimpleNamespace(
        model=SimpleNamespace(name="demo"), health=SimpleNamespace(problems=lambda: next(waits))
    )
    monkeypatch.setattr(server, "_POLL_SECONDS", 0.0)
    monkeypatch.setattr(server, "_SAID_EVERY", 1)
    monkeypatch.setattr(server, "_shown", lambda path: path)  # asks for the working directory
    said = StringIO()
    console = Console(file=said, width=200)
    announced = server._announce(cast(Service, service), Settings(_env_file=None), lambda: True, console)
    asyncio.run(announced)
    lines = said.getvalue().splitlines()
    assert lines[:2] == [
        "Starting demo for 0 s: encoder loading",
        "Starting demo for 0 s: sampler not measured yet",
    ]
    assert "answers at" in said.getvalue()

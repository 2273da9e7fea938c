"""`smoothgate serve` where it cannot start: the reason is said, and nothing is left behind."""

import os
import subprocess
import sys

import pytest

from tests import processes

COMMAND = [sys.executable, "-c", "from smoothgate.cli import app; app()", "serve"]


@pytest.mark.parametrize(
    ("variables", "status", "reason"),
    [
        ({"SMOOTHGATE_N_CERTIFY": "4"}, 1, "the smallest number that could is"),
        ({"SMOOTHGATE_SIGMA": "5"}, 2, "sigma 5.0 is not within"),
        ({"SMOOTHGATE_HOST": "0.0.0.0"}, 2, "can be reached from elsewhere"),
        ({"SMOOTHGATE_ACCOUNTS": "/nowhere/accounts.json"}, 1, "cannot be read"),
        ({"SMOOTHGATE_URL_HOSTS": "10.0.0.1"}, 1, "SMOOTHGATE_URL_HOSTS"),
        ({"SMOOTHGATE_SIGNING_KEY_FILE": "/nowhere/key.pem"}, 1, "key.pem cannot be used"),
    ],
)
def test_what_cannot_start_says_why(variables: dict[str, str], status: int, reason: str) -> None:
    environment = os.environ | variables | {"SMOOTHGATE_PORT": "18765", "COLUMNS": "400"}
    result = subprocess.run(
        COMMAND, env=environment, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL
    )
    assert result.returncode == status, result.stderr
    assert reason in result.stderr
    assert not [line for line in processes.descendants(os.getpid()).values() if "18765" in line]

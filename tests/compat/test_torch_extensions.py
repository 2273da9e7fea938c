"""Each test in a process of its own: what is imported first matters."""

import subprocess
import sys
from pathlib import Path

import pytest

from smoothgate.engine.vllm_command import CHILD_SITE

# A stand-in for a wheel whose compiled part was built for another torch.
BROKEN = """
import torch
torch.ops.load_library("/nowhere/built_for_another_torch.so")
"""


def run(code: str, *path: Path) -> str:
    command = [sys.executable, "-c", code]
    environment = {"PYTHONPATH": ":".join(map(str, path))}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture
def broken_audio(tmp_path: Path) -> Path:
    package = tmp_path / "torchaudio"
    (package / "lib").mkdir(parents=True)
    (package / "__init__.py").write_text(BROKEN)
    (package / "lib" / "_torchaudio.so").write_bytes(b"not a library")
    return tmp_path


def test_transformers_and_vllm_import_here() -> None:
    code = "import transformers.processing_utils, torchvision.transforms, vllm; print('well')"
    assert "well" in run(code, CHILD_SITE)


def test_a_package_that_does_not_load_is_as_good_as_absent(broken_audio: Path) -> None:
    code = """
import importlib.util, transformers.processing_utils
print(importlib.util.find_spec("torchaudio"))
"""
    assert run(code, CHILD_SITE, broken_audio) == "None\n"


def test_a_package_that_loads_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "torchaudio").mkdir()
    (tmp_path / "torchaudio" / "__init__.py").write_text("")
    code = "import transformers, torchaudio; print(torchaudio.__file__)"
    assert run(code, CHILD_SITE, tmp_path).startswith(str(tmp_path))


def test_nothing_is_imported_before_it_is_needed() -> None:
    code = "import sys; print([name for name in sys.modules if name.startswith('torch')])"
    assert run(code, CHILD_SITE) == "[]\n"


def test_another_sitecustomize_still_runs(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("print('the other')")
    assert run("import sitecustomize; print(sitecustomize.__file__)", CHILD_SITE, tmp_path) == (
        f"the other\n{tmp_path / 'sitecustomize.py'}\n"
    )

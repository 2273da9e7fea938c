"""What is imported first matters, so that most tests run in a process of their own."""

import ast
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
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


@pytest.mark.long
def test_transformers_and_torchvision_import_here() -> None:
    """So does vLLM, which other tests start."""
    code = "import transformers.processing_utils, torchvision.transforms; print('well')"
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


REPAIRED = "smoothgate.compat.repaired_imports"
#: Packages whose import fails next to a torchvision that was built for another torch.
AFFECTED = {"transformers", "torchvision", "diffusers", "vllm"}


def _imports(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


@pytest.mark.parametrize("package", ["smoothgate", "smoothgate_lab"])
def test_every_module_that_imports_transformers_is_in_a_package_that_repairs_imports_first(
    package: str,
) -> None:
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    root = Path(spec.origin).parent
    affected = [
        file for file in root.rglob("*.py") if {n.partition(".")[0] for n in _imports(file)} & AFFECTED
    ]
    assert affected
    for file in affected:
        packages = [parent / "__init__.py" for parent in file.parents if parent.is_relative_to(root)]
        first = [next(_imports(init), "") for init in packages]
        assert REPAIRED in first, file


def test_the_repair_is_installed_once() -> None:
    code = f"""
import sys, {REPAIRED}
from smoothgate.compat import torch_extensions
torch_extensions.install()
print([type(finder).__name__ for finder in sys.meta_path].count("_BeforeFirstImport"))
"""
    assert run(code, *map(Path, sys.path)) == "1\n"

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAYERS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0][
    "layers"
]


def lint_imports(folder: Path) -> tuple[int, str]:
    run = subprocess.run(
        [
            sys.executable,
            "-c",
            "from importlinter.cli import lint_imports_command as run; run()",
            "--no-cache",
        ],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    return run.returncode, run.stdout + run.stderr


@pytest.fixture
def skeleton(tmp_path: Path) -> Path:
    """A package with our layers and our contract, but empty modules."""
    (tmp_path / "pyproject.toml").write_bytes((ROOT / "pyproject.toml").read_bytes())
    for package in ("smoothgate", "smoothgate_lab"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").touch()
    for name in re.findall(r"\w+", " ".join(LAYERS)):
        (tmp_path / f"smoothgate/{name}.py").touch()
    # The imports that the contract makes exceptions of have to be there.
    (tmp_path / "smoothgate/__init__.py").write_text(
        "import smoothgate.certifier\nimport smoothgate.client\nimport smoothgate.extras\n"
    )
    return tmp_path


def test_imports_point_one_way() -> None:
    status, output = lint_imports(ROOT)
    assert status == 0, output


def test_the_contract_accepts_a_downward_import(skeleton: Path) -> None:
    (skeleton / "smoothgate/http.py").write_text("import smoothgate.certify\n")
    status, output = lint_imports(skeleton)
    assert status == 0, output


@pytest.mark.parametrize(
    ("module", "imported"),
    [("certify", "http"), ("certify", "sampling"), ("vision", "engine"), ("engine", "sampling")],
)
def test_the_contract_rejects_an_import_against_the_layers(
    module: str, imported: str, skeleton: Path
) -> None:
    (skeleton / f"smoothgate/{module}.py").write_text(f"import smoothgate.{imported}\n")
    status, output = lint_imports(skeleton)
    assert status == 1
    assert f"smoothgate.{module} -> smoothgate.{imported}" in output


def test_the_contract_rejects_a_module_without_a_layer(skeleton: Path) -> None:
    (skeleton / "smoothgate/stray.py").touch()
    status, output = lint_imports(skeleton)
    assert status == 1
    assert "stray" in output

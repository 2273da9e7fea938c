"""The command line in an environment that has everything: what is loaded when, and the plugins."""

import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest
import typer
from typer.testing import CliRunner

from smoothgate import extras
from smoothgate.cli import plugins
from smoothgate.cli.main import app

LAB = ("bench", "demo", "evaluate", "photos", "psm.evaluate", "psm.train", "psm.tune")


def _imported(code: str) -> set[str]:
    """The packages that a fresh process has imported after running the code."""
    code += "; import sys; print(*{name.partition('.')[0] for name in sys.modules})"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(ran.stdout.splitlines()[-1].split())


def test_importing_smoothgate_imports_no_other_package() -> None:
    before = _imported("pass")
    assert _imported("import smoothgate") - before - sys.stdlib_module_names == {"smoothgate"}


def test_the_commands_are_listed_without_importing_what_they_use() -> None:
    heavy = {"torch", "numpy", "scipy", "transformers", "vllm", "fastapi", "pydantic", "httpx", "structlog"}
    listing = "from smoothgate.cli.main import app; app(['--help'], standalone_mode=False)"
    imported = _imported(listing)
    assert {"smoothgate", "smoothgate_lab"} <= imported
    assert not imported & heavy


def test_the_lab_brings_its_commands() -> None:
    assert {entry.name for entry in plugins.installed()} == set(LAB)
    for name in LAB:
        result = CliRunner().invoke(app, [*name.split("."), "--help"])
        assert result.exit_code == 0
        assert "needs the extra" not in result.output


@pytest.mark.parametrize("module", sorted({entry.module for entry in plugins.installed()}))
def test_a_plugin_can_be_imported_before_the_command_line(module: str) -> None:
    assert "smoothgate_lab" in _imported(f"import {module}")


@pytest.mark.parametrize("reason", ["a dependency of the lab is missing", "the lab is missing"])
def test_without_the_lab_its_commands_are_listed_and_name_the_extra(
    reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = plugins.installed()
    if reason == "a dependency of the lab is missing":
        monkeypatch.setattr(extras, "missing", lambda extra: ["mlxtend"] if extra == "lab" else [])
    else:
        entries = [EntryPoint(entry.name, f"nowhere.{entry.value}", entry.group) for entry in entries]
    monkeypatch.setattr(plugins, "installed", lambda: entries)
    groups = {"": typer.Typer(), "psm": typer.Typer()}
    groups[""].add_typer(groups["psm"], name="psm")
    plugins.add_plugins(groups)
    for name in LAB:
        result = CliRunner().invoke(groups[""], [*name.split("."), "some", "--words"])
        assert result.exit_code == 1
        command = f"`smoothgate {name.replace('.', ' ')}`"
        assert result.output == f"{command} needs the extra `lab`: pip install 'smoothgate[lab]'\n"


def test_an_error_inside_a_plugin_is_not_taken_for_a_missing_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = EntryPoint("broken", "smoothgate.errors:NoSuchThing", plugins.GROUP)
    monkeypatch.setattr(plugins, "installed", lambda: [entry])
    with pytest.raises(AttributeError, match="NoSuchThing"):
        plugins.add_plugins({"": typer.Typer()})


def test_missing_distributions_of_an_extra_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [
        "numpy>=2",
        "no-such-base",
        'no-such-server>=1; extra == "serve"',
        'pydantic; extra == "serve"',
        'smoothgate[serve]; extra == "lab"',
        'no-such-plots; extra == "lab"',
        'no-such-old; extra == "lab" and python_version < "3"',
    ]
    monkeypatch.setattr(extras, "requires", lambda project: lines)
    assert extras.missing("serve") == ["no-such-server"]
    assert extras.missing("lab") == ["no-such-plots", "no-such-server"]
    with pytest.raises(
        extras.MissingExtra, match=r"^It needs the extra `lab`: pip install 'smoothgate\[lab\]'$"
    ):
        extras.require("lab", "It")
    assert extras.missing("cpu") == []

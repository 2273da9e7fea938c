"""The release: its workflow, its notes, and the list of what the images hold."""

import json
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.stack import ROOT
from tests.programs import program

WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
RELEASE = ROOT / ".github/workflows/release.yml"


def _jobs(path: Path) -> dict[str, Any]:
    jobs: dict[str, Any] = yaml.safe_load(path.read_text())["jobs"]
    return jobs


def test_github_accepts_the_workflows() -> None:
    check = program("check-jsonschema", package="the Python package check-jsonschema")
    told = subprocess.run(
        [check, "--builtin-schema", "vendor.github-workflows", *WORKFLOWS],
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 0, told.stdout


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_actions_are_named_by_commit_and_jobs_may_do_no_more_than_they_need(path: Path) -> None:
    used = re.findall(r"uses: (\S+)(.*)", path.read_text())
    assert used
    for action, comment in used:
        assert re.search(r"@[0-9a-f]{40}$", action), action
        assert re.fullmatch(r" # v\d+\.\d+\.\d+", comment), action
    assert yaml.safe_load(path.read_text())["permissions"] == {}
    for name, job in _jobs(path).items():
        assert job["permissions"], name
        assert job["timeout-minutes"], name
        for step in job["steps"]:
            # What strangers may choose, such as the name of a tag, is read from the environment.
            assert "${{" not in step.get("run", ""), (name, step)


def test_nothing_is_published_before_it_was_tested_and_tried() -> None:
    jobs = _jobs(RELEASE)

    def before(name: str) -> set[str]:
        needed = jobs[name].get("needs", [])
        direct = {needed} if isinstance(needed, str) else set(needed)
        return direct.union(*(before(each) for each in direct))

    assert before("publish") >= {"test", "build", "end-to-end"}
    assert before("release") >= {"publish"}
    steps = json.dumps(jobs["publish"]["steps"])
    assert "cosign sign" in steps
    assert "attest-build-provenance" in steps
    assert ".ci/end-to-end" in json.dumps(jobs["end-to-end"]["steps"])
    (build,) = (
        step["with"] for step in jobs["build"]["steps"] if "build-push-action" in step.get("uses", "")
    )
    assert (build["provenance"], build["sbom"]) == ("mode=max", True)


def test_the_notes_of_a_release_are_those_of_its_version(tmp_path: Path) -> None:
    notes = runpy.run_path(str(ROOT / ".ci/release-notes.py"))["notes"]
    (tmp_path / "pyproject.toml").write_text('[project]\nversion = "1.2.0"\n')
    changelog = "# Changelog\n\n## 1.2.0 (2027-01-02)\n\n- New.\n\n## 1.1.0 (2026-12-01)\n\n- Old.\n"
    (tmp_path / "CHANGELOG.md").write_text(changelog)
    assert notes("v1.2.0", tmp_path) == "- New."
    with pytest.raises(ValueError, match="the tag is v"):
        notes("v1.1.0", tmp_path)
    (tmp_path / "CHANGELOG.md").write_text(changelog.replace("1.2.0 (2027-01-02)", "Unreleased"))
    with pytest.raises(ValueError, match="has no section"):
        notes("v1.2.0", tmp_path)


def test_the_changelog_has_a_place_for_what_comes_next() -> None:
    sections = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    versions = [each for each in sections if each != "Unreleased"]
    assert sections
    assert all(re.fullmatch(r"\d+\.\d+\.\d+ \(\d{4}-\d\d-\d\d\)", each) for each in versions)


def test_the_list_of_parts_has_every_package_with_its_hashes(tmp_path: Path) -> None:
    lock = ROOT / "docker/requirements.cuda.txt"
    command: list[str | Path] = [ROOT / ".ci/sbom", sys.prefix, tmp_path, "cuda"]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    parts = json.loads((tmp_path / "smoothgate-cuda.cdx.json").read_text())
    assert parts["metadata"]["component"]["name"] == "smoothgate"
    pinned = runpy.run_path(str(ROOT / "docker/lock.py"))["pinned"](lock.read_text())
    assert {f"{each['name']}=={each['version']}" for each in parts["components"]} == set(pinned.split())
    for each in parts["components"]:
        assert any(reference.get("hashes") for reference in each["externalReferences"]), each["name"]

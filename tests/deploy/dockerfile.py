"""Runs the steps of a Dockerfile in order in an ordinary folder, where there is no Docker engine.

Every COPY and RUN of the stages that the last one needs is carried out, with absolute paths moved below that
folder. A later stage finds only what it copies from an earlier one, or all of it where it begins `FROM` that
one: the folder is emptied between stages. What differs from a build:

* `FROM` an image brings no base: the machine's own interpreter and tools are used.
* System packages and users (`apt-get`, `useradd`) are not installed.
* Where this environment has a distribution in the version that `pip` would download, its files are linked
  into the stage. pip finds it installed and downloads the rest.
* The test declares pairs of text that are `rewritten`.
"""

import compileall
import json
import os
import re
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import NamedTuple

from tests.linking import link, link_distribution

NOT_RUN = ("apt-get", "useradd", "rm -rf /var/lib/apt/lists/*")


class Step(NamedTuple):
    instruction: str
    text: str


def parse(path: Path) -> list[Step]:
    lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [Step(*line.split(maxsplit=1)) for line in joined.splitlines() if line.strip()]


class Stage(NamedTuple):
    name: str
    base: str
    steps: list[Step]


def stages(path: Path) -> dict[str, Stage]:
    """The stages by name, each with the image or stage that it begins from; the last one is called `last`.

    Arguments have their default values.
    """
    arguments: dict[str, str] = {}
    found: dict[str, Stage] = {}
    for step in parse(path):
        if step.instruction == "FROM":
            base, _, name = step.text.partition(" AS ")
            base = re.sub(r"\$\{(\w+)\}", lambda match: arguments[match[1]], base)
            steps: list[Step] = []
            found[name or "last"] = Stage(name or "last", base, steps)
        elif step.instruction == "ARG":
            name, _, value = step.text.partition("=")
            arguments[name] = value
        else:
            steps.append(step)
    return found


def needed(known: dict[str, Stage]) -> list[Stage]:
    """The stages that go into the last one, in order: Docker builds no other."""
    wanted = {"last"}
    for stage in reversed(known.values()):
        if stage.name in wanted:
            sources = re.findall(r"--from=(\S+)", " ".join(step.text for step in stage.steps))
            wanted |= {stage.base, *sources}
    return [stage for stage in known.values() if stage.name in wanted]


class Build:
    """The image of a Dockerfile as a folder: `root`, with `environment`, `entrypoint` and `healthcheck`."""

    def __init__(self, dockerfile: Path, context: Path, scratch: Path, rewritten: dict[str, str]) -> None:
        self.root = scratch / "root"
        self.entrypoint: list[str] = []
        self.healthcheck: list[str] = []
        self.environment: dict[str, str] = {}
        self._scratch = scratch
        self._context = scratch / "context"
        self._rewritten = rewritten
        self._finished: dict[str, tuple[Path, dict[str, str], str]] = {}
        self._folder = "/"
        ignored = (dockerfile.parent / f"{dockerfile.name}.dockerignore").read_text().splitlines()
        _copy_context(context, self._context, ignored)
        for stage in needed(stages(dockerfile)):
            self._begin(stage.base)
            for step in stage.steps:
                getattr(self, f"_{step.instruction.lower()}")(step.text)
            if stage.name != "last":
                kept = self.root.rename(self._scratch / f"stage-{stage.name}")
                self._finished[stage.name] = kept, self.environment, self._folder

    def run(self, command: list[str], **variables: str) -> subprocess.CompletedProcess[str]:
        """A command in the finished image."""
        return subprocess.run(
            command, env=self.variables(**variables), cwd=self._there(), capture_output=True, text=True
        )

    def variables(self, **more: str) -> dict[str, str]:
        """The environment of a process in the image."""
        home = self._inside("/home/smoothgate")
        return {"HOME": str(home), "LANG": "C.UTF-8", "PATH": os.defpath} | self.environment | more

    def _begin(self, base: str) -> None:
        if base in self._finished:
            folder, environment, self._folder = self._finished[base]
            self.environment = dict(environment)
            shutil.copytree(folder, self.root, symlinks=True, copy_function=link)
            return
        self.root.mkdir()
        # The interpreter that makes the first environment, as the base image would have it on its PATH.
        # Some systems have it as `python3` only.
        interpreter = self._scratch / "interpreter/python"
        interpreter.parent.mkdir(exist_ok=True)
        interpreter.write_text(f'#!/bin/sh\nexec {sys._base_executable} "$@"\n')  # type: ignore[attr-defined]
        interpreter.chmod(0o755)
        self.environment = {"PATH": f"{interpreter.parent}{os.pathsep}{os.defpath}"}
        self._folder = "/"

    def _workdir(self, text: str) -> None:
        self._folder = text
        self._there().mkdir(parents=True, exist_ok=True)

    def _env(self, text: str) -> None:
        for name, value in re.findall(r"(\w+)=(\S+)", text):
            self.environment[name] = self._moved(value.replace("$PATH", self.environment["PATH"]))

    def _copy(self, text: str) -> None:
        words = text.split()
        origin = self._context
        if words[0].startswith("--from="):
            origin, _, _ = self._finished[words.pop(0).removeprefix("--from=")]
        *sources, target = words
        to = self._inside(target)
        for source in sources:
            there = origin / source.lstrip("/")
            assert there.exists(), f"COPY {source}: not in the context, or ignored"
            if there.is_dir():
                shutil.copytree(there, to, symlinks=True, copy_function=link, dirs_exist_ok=True)
            else:
                link(there, to / there.name if target.endswith("/") else to)

    def _run(self, text: str) -> None:
        commands = [part for part in text.split(" && ") if not part.strip().startswith(NOT_RUN)]
        command = " && ".join(commands)
        for old, new in self._rewritten.items():
            command = command.replace(old, new)
        if "pip install" in command:
            self._lend(command)
        ran = subprocess.run(
            ["sh", "-ec", self._moved(command)],
            env=self.variables(**_PIP),
            cwd=self._there(),
            capture_output=True,
            text=True,
        )
        assert ran.returncode == 0, f"RUN {text}\n{ran.stdout[-4000:]}\n{ran.stderr[-4000:]}"

    def _entrypoint(self, text: str) -> None:
        self.entrypoint = json.loads(text)

    def _cmd(self, text: str) -> None:
        self.entrypoint = self.entrypoint + json.loads(text)

    def _healthcheck(self, text: str) -> None:
        self.healthcheck = json.loads(text.partition("CMD ")[2])

    def _expose(self, text: str) -> None:
        pass

    _user = _expose

    def _inside(self, path: str) -> Path:
        return self.root / (path if path.startswith("/") else f"{self._folder}/{path}").lstrip("/")

    def _there(self) -> Path:
        return self._inside(self._folder)

    def _moved(self, text: str) -> str:
        return re.sub(r"(?<![\w./:])(/opt|/src|/tmp|/home)(?=/|\b)", rf"{self.root}\1", text)

    def _lend(self, command: str) -> None:
        """Link what the command names, itself or in a file, where this environment has that version."""
        lines = command.split()
        for file in re.findall(r"--requirement (\S+)", command):
            lines += (self._there() / file).read_text().splitlines()
        (site,) = self.root.glob("opt/venv/lib/python3*/site-packages")
        for name, _, version in (line.removesuffix(" \\").partition("==") for line in lines):
            try:
                here = distribution(name)
            except (PackageNotFoundError, ValueError):
                continue
            if here.version != version:
                continue
            link_distribution(here, site)
        # As pip does, and as the environment here may not be.
        compileall.compile_dir(site, quiet=2, workers=0)


# pip's own words are wanted when it fails, and the machine's configuration says where packages come from.
_PIP = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}


def _copy_context(context: Path, to: Path, ignored: list[str]) -> None:
    """What Docker would send: everything but what the last matching line of the list leaves out."""
    tracked = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=context, capture_output=True, text=True
    )
    for name in tracked.stdout.splitlines():
        kept = True
        for line in ignored:
            pattern = line.removeprefix("!").removeprefix("**/")
            parents = [name, *map(str, Path(name).parents)]
            if any(fnmatch(each, pattern) for each in parents):
                kept = line.startswith("!")
        if kept and (context / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(context / name, to / name)

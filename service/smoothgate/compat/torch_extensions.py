"""Makes transformers and vLLM importable beside wheels of torch's sister packages built for another torch.

On PyPI, torchvision, torchaudio and torchcodec are CUDA builds. Beside a CPU torch their compiled parts do
not load, and the import of transformers or vLLM ends with `operator torchvision::nms does not exist` or
`Could not load this library`, in this process and in every process that vLLM starts. None of these parts is
needed: torchvision's transforms are plain torch, and neither audio nor video is served.

`install` costs nothing until transformers or torchvision is first imported, and changes nothing where the
compiled parts load. At its head this module imports only the standard library: `child_site` runs it by path.
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
    """Finds nothing: it calls `repair` once, when a package that needs it is about to be imported."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Repair on the way, and leave the import itself to the finders behind this one."""
        if fullname in ("transformers", "torchvision"):
            sys.meta_path.remove(self)
            repair()
        return None


def install() -> None:
    """Have `repair` run before the first import of transformers or torchvision in this process.

    Calling it again changes nothing.
    """
    global _installed
    if not _installed:
        _installed = True
        sys.meta_path.insert(0, _BeforeFirstImport())


def repair() -> None:
    """Declare torchvision's operators, hide torchaudio and torchcodec: each where its compiled part fails."""
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
            # None makes `find_spec` answer that the package is not there and `import` raise ImportError.
            sys.modules[package] = None  # type: ignore[assignment]


def _loads(package: str, pattern: str) -> bool:
    """Whether the package is absent, already imported, or its extension loads into the installed torch."""
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

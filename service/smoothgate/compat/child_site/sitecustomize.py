"""Runs at the start of every Python process with this folder on its PYTHONPATH: vLLM and its children.

It installs the import repair of `torch_extensions`, then runs the `sitecustomize` that this one hides.
"""

import sys
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

_HERE = Path(__file__).resolve().parent


def _execute(spec: ModuleSpec | None) -> ModuleType | None:
    if spec is None or spec.loader is None:
        return None
    module = module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


_repair = _execute(spec_from_file_location("_torch_extensions", _HERE.parent / "torch_extensions.py"))
if _repair is not None:
    _repair.install()
_execute(PathFinder.find_spec("sitecustomize", [p for p in sys.path if Path(p).resolve() != _HERE]))

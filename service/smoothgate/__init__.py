"""Smoothgate: certified visual robustness in front of vLLM.

`smoothgate.Client` asks a running service. `smoothgate.Certifier` and `smoothgate.features` certify pictures
in this process, with the extra `serve`. All are imported on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from smoothgate.certifier import Certifier, features
    from smoothgate.client import Client

__version__ = "0.1.0"
__all__ = ["Certifier", "Client", "__version__", "features"]

_MODULES = {"Certifier": "certifier", "Client": "client", "features": "certifier"}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if _MODULES[name] == "certifier":
        from smoothgate.extras import require

        require("serve", f"smoothgate.{name}")
    return getattr(import_module(f"smoothgate.{_MODULES[name]}"), name)

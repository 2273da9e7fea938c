"""Smoothgate: certified visual robustness in front of vLLM.

`smoothgate.Client` asks a running service; it is imported on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from smoothgate.client import Client

__version__ = "0.1.0"
__all__ = ["Client", "__version__"]


def __getattr__(name: str) -> Any:
    if name == "Client":
        from smoothgate.client import Client

        return Client
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""Smoothgate: certified visual robustness in front of vLLM."""

from smoothgate.compat import torch_extensions as _torch_extensions

__version__ = "0.1.0"

_torch_extensions.install()

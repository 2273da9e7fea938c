"""Tensors as vLLM's API takes them."""

from __future__ import annotations

import io

import pybase64
import torch
from torch import Tensor


def encoded(tensor: Tensor) -> bytes:
    """The file that `torch.save` writes of a tensor, in base64."""
    buffer = io.BytesIO()
    # torch.save writes the whole storage of a view.
    whole = tensor.untyped_storage().nbytes() == tensor.nbytes and tensor.is_contiguous()
    torch.save(tensor if whole else tensor.clone(memory_format=torch.contiguous_format), buffer)
    return pybase64.b64encode(buffer.getvalue())

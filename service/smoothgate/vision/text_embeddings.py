"""The text embeddings of a checkpoint, row by row: what the language model reads in the place of a token."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from transformers.utils import cached_file

_NAME = "embed_tokens.weight"
_WHOLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
#: Language models that read a token's embedding as it is stored, and place it by its position alone.
PLAIN = frozenset({"llama", "mistral", "qwen2", "qwen3"})


class TextEmbeddings:
    """Reads the rows that are asked for, and keeps them.

    Args:
        model: a directory or a Hugging Face id.

    Raises:
        LookupError: the checkpoint has no text embeddings in a safetensors file.
    """

    def __init__(self, model: str) -> None:
        self._file, self._name = _find(model)
        self._row = lru_cache(maxsize=8192)(self._read)

    def rows(self, tokens: Sequence[int]) -> Tensor:
        """The embeddings (n, D) float32 of tokens."""
        return torch.stack([self._row(token) for token in tokens])

    def _read(self, token: int) -> Tensor:
        with safe_open(self._file, framework="pt") as weights:
            row: Tensor = weights.get_slice(self._name)[token : token + 1][0].float()
            return row


def _find(model: str) -> tuple[str, str]:
    """The file and the name of the embeddings."""
    index = _resolved(model, _INDEX)
    if index is not None:
        names: dict[str, str] = json.loads(Path(index).read_text())["weight_map"]
        found = [(name, file) for name, file in names.items() if name.endswith(_NAME)]
        if len(found) == 1 and (file := _resolved(model, found[0][1])) is not None:
            return file, found[0][0]
    elif (whole := _resolved(model, _WHOLE)) is not None:
        with safe_open(whole, framework="pt") as weights:
            inside = [name for name in weights.keys() if name.endswith(_NAME)]  # noqa: SIM118
        if len(inside) == 1:
            return whole, inside[0]
    raise LookupError("the checkpoint has no text embeddings that can be read")


def _resolved(model: str, file: str) -> str | None:
    options: dict[str, Any] = {"_raise_exceptions_for_missing_entries": False}
    found: str | None = cached_file(model, file, **options)
    return found

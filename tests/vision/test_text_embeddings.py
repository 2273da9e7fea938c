import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from smoothgate.bundled import DEMO
from smoothgate.vision.text_embeddings import TextEmbeddings

WEIGHT = torch.arange(12.0).reshape(6, 2)


def test_rows_of_a_single_file(tmp_path: Path) -> None:
    save_file(
        {"language_model.model.embed_tokens.weight": WEIGHT, "lm_head.weight": WEIGHT + 1},
        tmp_path / "model.safetensors",
    )
    torch.testing.assert_close(TextEmbeddings(str(tmp_path)).rows([5, 0, 5]), WEIGHT[[5, 0, 5]])


def test_rows_of_several_files(tmp_path: Path) -> None:
    save_file({"model.language_model.embed_tokens.weight": WEIGHT.half()}, tmp_path / "b.safetensors")
    names = {"lm_head.weight": "a.safetensors", "model.language_model.embed_tokens.weight": "b.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    rows = TextEmbeddings(str(tmp_path)).rows([1])
    assert rows.dtype == torch.float32
    torch.testing.assert_close(rows, WEIGHT[[1]])


def test_a_checkpoint_without_them_is_refused(tmp_path: Path) -> None:
    save_file({"lm_head.weight": WEIGHT}, tmp_path / "model.safetensors")
    with pytest.raises(LookupError):
        TextEmbeddings(str(tmp_path))


def test_the_demo_model_has_them() -> None:
    assert TextEmbeddings(str(DEMO.model)).rows(range(4)).shape == (4, 160)

import base64
import io

import pytest
import torch

from smoothgate.engine import image_parts
from smoothgate.errors import SmoothgateError
from smoothgate.vision import Prompt


def part(tokens: torch.Tensor, dtype: torch.dtype = torch.float32) -> dict[str, str]:
    (part,) = image_parts(tokens, Prompt("image_embeds", (4,)), hidden_size=3, dtype=dtype)
    return part


def test_a_view_is_sent_without_its_storage() -> None:
    batch = torch.randn(1000, 4, 3, requires_grad=True)
    content = part(batch[7])
    assert content["type"] == "image_embeds"
    data = base64.b64decode(content["image_embeds"], validate=True)
    assert len(data) < 4000
    loaded = torch.load(io.BytesIO(data), weights_only=True)
    assert torch.equal(loaded, batch[7])
    assert not loaded.requires_grad


def test_tokens_are_sent_in_the_engines_dtype() -> None:
    content = part(torch.randn(3, 4).T, torch.bfloat16)
    loaded = torch.load(io.BytesIO(base64.b64decode(content["image_embeds"])), weights_only=True)
    assert loaded.dtype is torch.bfloat16
    assert loaded.is_contiguous()


@pytest.mark.parametrize(
    ("tokens", "dtype", "message"),
    [
        (torch.zeros(5, 3), torch.float32, "shape"),
        (torch.zeros(4, 2), torch.float32, "shape"),
        (torch.zeros(1, 4, 3), torch.float32, "shape"),
        (torch.zeros(4, 3, dtype=torch.int64), torch.float32, "floating point"),
        (torch.full((4, 3), torch.nan), torch.float32, "finite"),
        (torch.full((4, 3), torch.inf), torch.float32, "finite"),
        (torch.full((4, 3), 1e6), torch.float16, "finite"),
    ],
)
def test_tokens_that_vllm_cannot_take_are_refused(
    tokens: torch.Tensor, dtype: torch.dtype, message: str
) -> None:
    with pytest.raises(SmoothgateError, match=message) as failure:
        part(tokens, dtype)
    assert failure.value.status == 500

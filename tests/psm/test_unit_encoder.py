"""The arithmetic of the unit of work, and what is served for a direction."""

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor

from smoothgate.psm.checkpoint import PSM
from smoothgate.psm.unit_encoder import UnitEncoder


class _Recorder:
    """In the place of `torch.autocast`: remembers what was asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, torch.dtype | None, bool]] = []

    def __call__(self, device: str, dtype: torch.dtype | None = None, *, enabled: bool = True) -> Any:
        self.asked.append((device, dtype, enabled))
        return nullcontext()


class _Adapter:
    """Says that it is on a GPU, and computes on the CPU."""

    tile_height = None
    device = torch.device("cuda:1")

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype

    def tokens(self, x: Tensor, layout: tuple[int, ...] = ()) -> Tensor:
        return x.flatten(1)[:, None]


@pytest.mark.parametrize(
    ("dtype", "asked"),
    [
        (torch.float32, ("cuda", None, False)),
        (torch.bfloat16, ("cuda", torch.bfloat16, True)),
        (torch.float16, ("cuda", torch.float16, True)),
    ],
)
def test_the_arithmetic_is_that_of_the_setting(
    monkeypatch: pytest.MonkeyPatch,
    dtype: torch.dtype,
    asked: tuple[str, torch.dtype | None, bool],
) -> None:
    """A certificate that says float32 must not be computed in bfloat16."""
    recorder = _Recorder()
    monkeypatch.setattr(torch, "autocast", recorder)
    encoder = UnitEncoder.__new__(UnitEncoder)
    encoder.adapter = _Adapter(dtype)  # type: ignore[assignment]
    encoder.psm = PSM()
    encoder._mu = torch.zeros(1, 48)
    encoder.units(torch.ones(2, 3, 4, 4), torch.ones(2))
    assert recorder.asked == [asked]


def test_served_tokens_ask_no_device(demo_encoder: UnitEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """The event loop asks for them. On `meta` tensors have no values."""
    direction = torch.randn(demo_encoder._mu.numel(), generator=torch.Generator().manual_seed(0))
    expected = demo_encoder.served_tokens(direction)
    monkeypatch.setattr(demo_encoder, "_mu", demo_encoder._mu.to("meta"))
    torch.testing.assert_close(demo_encoder.served_tokens(direction), expected)

"""What the service asks of a model family's vision part, and the choice of the family."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from transformers import PretrainedConfig

from service.errors import SmoothgateError
from service.vision.images import DecodedImage


@dataclass(frozen=True, slots=True, eq=False)
class Canvas:
    """An image where the noise is added and the radii are measured.

    Attributes:
        x: (3, H, W) float32 in [0, 1], on the CPU.
        upload_norm: l2 operator norm of the way from the upload's decoded pixels in [0, 1] to x. What holds
            within r of x holds for all uploads of the same size within `r / upload_norm`.
    """

    x: Tensor
    upload_norm: float


class VisionAdapter(Protocol):
    """One loaded vision part: h, everything from the canvas x to the visual tokens, and the ways to x.

    Attributes:
        family: name of the model family.
        image_token: the literal placeholder that stands for an image in the model's prompts.
        canvas_shape: (3, H, W) of every canvas.
        token_grid: (rows, columns) of the patches.
        tokens_per_image: T. More or fewer than the grid where the class token is kept or a patch dropped.
        hidden_size: D, the width of the language model.
        dtype, device: where and in what h is computed.
        digest: sha256 hex over weights, configuration and preprocessing that determine h, whatever the dtype.
    """

    @property
    def family(self) -> str: ...  # noqa: D102
    @property
    def image_token(self) -> str: ...  # noqa: D102
    @property
    def canvas_shape(self) -> tuple[int, int, int]: ...  # noqa: D102
    @property
    def token_grid(self) -> tuple[int, int]: ...  # noqa: D102
    @property
    def tokens_per_image(self) -> int: ...  # noqa: D102
    @property
    def hidden_size(self) -> int: ...  # noqa: D102
    @property
    def dtype(self) -> torch.dtype: ...  # noqa: D102
    @property
    def device(self) -> torch.device: ...  # noqa: D102
    @property
    def digest(self) -> str: ...  # noqa: D102

    def canvas(self, image: DecodedImage) -> Canvas:
        """The canvas for smoothing: resized in floating point, so that the norm of the way to it is known."""
        ...

    def canvas_native(self, image: DecodedImage) -> Tensor:
        """(3, H, W) float32 in [0, 1] by the checkpoint's own 8-bit processor: what vLLM itself would see."""
        ...

    def tokens(self, x: Tensor) -> Tensor:
        """h: (B, 3, H, W) of any real values -> (B, T, D) in `dtype`. Differentiable in x."""
        ...


def load(model: str, *, device: torch.device | str, dtype: torch.dtype) -> VisionAdapter:
    """Load the vision part of a checkpoint, given as a directory or a Hugging Face id.

    Raises:
        SmoothgateError: code `unsupported_model`; the family or one of its settings is not supported.
    """
    from service.vision.llava import LlavaAdapter

    families = {LlavaAdapter.family: LlavaAdapter}
    family = PretrainedConfig.get_config_dict(model)[0].get("model_type")
    if family not in families:
        raise SmoothgateError(
            f"Models of type {family} are not supported, only: {', '.join(families)}.",
            code="unsupported_model",
        )
    return families[family].load(model, device=torch.device(device), dtype=dtype)

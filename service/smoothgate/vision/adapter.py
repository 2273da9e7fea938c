"""What the service asks of a model family's vision part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from smoothgate.certify.certificate import Space
from smoothgate.vision.images import DecodedImage

#: What of an image decides about its tokens beside the shape of its canvas; mostly nothing.
Layout = tuple[int, ...]

#: How visual tokens are handed to vLLM: as the embeddings of an image, or as pieces of an embedded prompt.
Way = Literal["image_embeds", "prompt_embeds"]


@dataclass(frozen=True, slots=True, eq=False)
class Canvas:
    """An image where the noise is added and the radii are measured.

    Attributes:
        x: (3, H, W) float32 in [0, 1], on the CPU; tiles stand below each other.
        upload_norm: l2 operator norm of the way from the upload's decoded pixels in [0, 1] to x, or a bound
            on it where x holds the image more than once. What holds within r of x holds for all uploads of
            the same size within `r / upload_norm`.
        layout: see `Layout`.
    """

    x: Tensor
    upload_norm: float
    layout: Layout = ()


@dataclass(frozen=True, slots=True)
class Prompt:
    """What stands for one image in the language model's prompt.

    Attributes:
        way: how the visual tokens go to vLLM.
        runs: in order, either a text or a number of visual tokens.
        grid: (frames, rows, columns) of patches, for models that place tokens in space; else None.
    """

    way: Way
    runs: tuple[str | int, ...]
    grid: tuple[int, int, int] | None = None

    @property
    def tokens(self) -> int:
        """Visual tokens in all."""
        return sum(run for run in self.runs if isinstance(run, int))


class VisionAdapter(Protocol):
    """One loaded vision part: h, everything from the canvas x to the visual tokens, and the ways to x.

    Attributes:
        family: name of the model family.
        way: how its visual tokens go to vLLM.
        space: what its canvases are.
        engine_limits: what vLLM is told of media per prompt. Its limits hold for pixels; embeddings pass a 0.
        placeholders: texts that the model's tokenizer takes for a part of an image.
        canvas_shape: (3, H, W) of every canvas; None where it depends on the image.
        tile_height: rows of one tile of a canvas; None where it is not made of tiles.
        token_grid: (rows, columns) of the patches; None where they depend on the image.
        tokens_per_image: T; more or fewer than the grid where the class token is kept or a patch dropped;
            None where it depends on the image.
        hidden_size: D, the width of what the language model takes.
        dtype, device: where and in what h is computed.
        digest: sha256 hex over weights, configuration and preprocessing that determine h, whatever the dtype.
    """

    @property
    def family(self) -> str: ...  # noqa: D102
    @property
    def way(self) -> Way: ...  # noqa: D102
    @property
    def space(self) -> Space: ...  # noqa: D102
    @property
    def engine_limits(self) -> Mapping[str, int]: ...  # noqa: D102
    @property
    def placeholders(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def canvas_shape(self) -> tuple[int, int, int] | None: ...  # noqa: D102
    @property
    def tile_height(self) -> int | None: ...  # noqa: D102
    @property
    def token_grid(self) -> tuple[int, int] | None: ...  # noqa: D102
    @property
    def tokens_per_image(self) -> int | None: ...  # noqa: D102
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

    def prompt(self, height: int, width: int) -> Prompt:
        """What stands for an image of this size in the prompt."""
        ...

    def full_size(self, height: int, width: int) -> tuple[int, int]:
        """An image size near this one whose images `tokens` takes without their layout."""
        ...

    def tokens(self, x: Tensor, layout: Layout = ()) -> Tensor:
        """h: (B, 3, H, W) of any real values -> (B, T, D) in `dtype`. Differentiable in x.

        Without a layout, that of an image which fills its canvas.
        """
        ...

"""What the service needs from the vision part of a model family."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from smoothgate.certify.certificate import Space
from smoothgate.pictures.images import DecodedImage

#: What determines an image's tokens in addition to the shape of its canvas. Empty for most families.
Layout = tuple[int, ...]

#: The content part in which vLLM takes visual tokens: an image's embeddings, or pieces of an embedded prompt.
PartType = Literal["image_embeds", "prompt_embeds"]


@dataclass(frozen=True, slots=True, eq=False)
class Canvas:
    """The pixels of an image to which noise is added and on which radii are measured.

    Attributes:
        x: (3, H, W) float32 in [0, 1], on the CPU. Tiles are below each other.
        upload_norm: l2 operator norm of the map from the upload's decoded pixels in [0, 1] to x, or an upper
            bound on it if x holds the image more than once. A statement about all canvases within r of x also
            holds for all uploads of the same size within `r / upload_norm`.
        layout: see `Layout`.
    """

    x: Tensor
    upload_norm: float
    layout: Layout = ()


@dataclass(frozen=True, slots=True)
class Prompt:
    """The part of the language model's prompt that represents one image.

    Attributes:
        part_type: the content part in which the visual tokens go to vLLM.
        runs: texts and numbers of visual tokens, in order.
        grid: (frames, rows, columns) of patches for models that use positions of tokens in space, else None.
    """

    part_type: PartType
    runs: tuple[str | int, ...]
    grid: tuple[int, int, int] | None = None

    @property
    def tokens(self) -> int:
        """Number of visual tokens."""
        return sum(run for run in self.runs if isinstance(run, int))


class VisionAdapter(Protocol):
    """The loaded vision part of a model: the maps from images to canvases x, and h from x to visual tokens.

    Attributes:
        family: name of the model family.
        part_type: the content part in which the visual tokens go to vLLM.
        space: what the canvases are.
        engine_limits: vLLM's limits on media per prompt. They apply to pixels; embeddings pass a limit of 0.
        placeholders: texts that the model's tokenizer reads as part of an image.
        list_token: number and text of the token that stands for one visual token, where prompts may be sent
            as embeddings alone; else None.
        canvas_shape: (3, H, W) of every canvas, or None if it depends on the image.
        max_canvas_pixels: the operator's limit on the pixels of a canvas, or None. The canvas of a larger
            image is the one that the checkpoint's processor makes with smaller settings.
        tile_height: rows of one tile of a canvas, or None if canvases have no tiles.
        token_grid: (rows, columns) of the patches, or None if they depend on the image.
        tokens_per_image: T, or None if it depends on the image. It differs from the number of patches in the
            grid if the class token is kept or a patch is dropped.
        hidden_size: D, the width of the visual tokens.
        dtype, device: the arithmetic and the device of h.
        digest: sha256 hex over the weights, configuration and preprocessing that determine h. It does not
            depend on `dtype` and `max_canvas_pixels`.
    """

    @property
    def family(self) -> str: ...  # noqa: D102
    @property
    def part_type(self) -> PartType: ...  # noqa: D102
    @property
    def space(self) -> Space: ...  # noqa: D102
    @property
    def engine_limits(self) -> Mapping[str, int]: ...  # noqa: D102
    @property
    def placeholders(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def list_token(self) -> tuple[int, str] | None: ...  # noqa: D102
    @property
    def canvas_shape(self) -> tuple[int, int, int] | None: ...  # noqa: D102
    @property
    def max_canvas_pixels(self) -> int | None: ...  # noqa: D102
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
        """The canvas for smoothing, resized in floating point so that the norm of the map to it is known.

        Raises:
            Unacceptable: the model takes no image of this size, or its canvas would exceed the limit.
        """
        ...

    def canvas_values(self, height: int, width: int) -> int:
        """Number of values (3 * H * W) in the canvas of an image of this size; raises as `canvas`."""
        ...

    def canvas_native(self, image: DecodedImage) -> Tensor:
        """(3, H, W) float32 in [0, 1] by the checkpoint's own 8-bit processor: what vLLM itself would see."""
        ...

    def prompt(self, height: int, width: int) -> Prompt:
        """The part of the prompt that represents an image of this size."""
        ...

    def filling_size(self, height: int, width: int) -> tuple[int, int]:
        """An image size near this one that fills its canvas, so that `tokens` needs no layout."""
        ...

    def tokens(self, x: Tensor, layout: Layout = ()) -> Tensor:
        """h: (B, 3, H, W) of any real values -> (B, T, D) in `dtype`. Differentiable in x.

        An empty layout stands for an image that fills its canvas.
        """
        ...

"""LLaVA-NeXT and LLaVA-OneVision: a thumbnail and the tiles of the image at one of several resolutions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor
from transformers.image_processing_utils import get_patch_output_size, select_best_resolution

from smoothgate.certify.certificate import Space
from smoothgate.vision.adapter import Layout, Way
from smoothgate.vision.base_adapter import SharedAdapter, cut, stack, unstack
from smoothgate.vision.preprocessing import filter_of, unsupported
from smoothgate.vision.resize import LinearResize


class LlavaNextAdapter(SharedAdapter):
    """Which tokens of the padded border are left out depends on the image's size, hence the layout."""

    family: ClassVar[str] = "llava_next"
    way: ClassVar[Way] = "prompt_embeds"
    space: ClassVar[Space] = "stacked_tiles"

    def prepare(self) -> None:  # noqa: D102
        self._filter = filter_of(self.images)
        self._resolutions = [tuple(each) for each in self.images.image_grid_pinpoints]
        size = {key: value for key, value in dict(self.images.size).items() if value}
        side = int(self.config.vision_config.image_size)
        if set(size.values()) != {side}:
            raise unsupported(f"size is {size}, its vision tower takes {side} x {side}")
        if self._resolutions != [tuple(each) for each in self.config.image_grid_pinpoints]:
            raise unsupported("image_grid_pinpoints of model and processor differ")
        self.tile_height = self._side = side

    def maps(self, height: int, width: int) -> Sequence[LinearResize]:  # noqa: D102
        best = select_best_resolution((height, width), self._resolutions)
        # It reads the shape alone.
        inner = get_patch_output_size(torch.empty(3, height, width, device="meta"), best, "channels_first")
        source, side = (height, width), (self._side, self._side)
        return [
            LinearResize.to(source, side, filter_=self._filter),
            LinearResize.to(source, inner, filter_=self._filter, window=best),
        ]

    def assemble(self, pieces: Sequence[Tensor]) -> Tensor:  # noqa: D102
        thumbnail, whole = pieces
        return stack([thumbnail, *cut(whole, self._side)])

    def native(self, inputs: Mapping[str, Tensor]) -> Tensor:  # noqa: D102
        return stack(list(inputs["pixel_values"][0]))

    def layout(self, height: int, width: int) -> Layout:  # noqa: D102
        return height, width

    def full_size(self, height: int, width: int) -> tuple[int, int]:  # noqa: D102
        rows, columns = select_best_resolution((height, width), self._resolutions)
        return self._filled(rows * columns // self._side**2)

    def _filled(self, tiles: int) -> tuple[int, int]:
        """The first resolution of so many tiles."""
        return next(
            (height, width) for height, width in self._resolutions if height * width == tiles * self._side**2
        )

    def features(self, pixels: Tensor, layout: Layout) -> Tensor:  # noqa: D102
        tiles = unstack(pixels, self._side)
        size = layout or self._filled(tiles.shape[1] - 1)
        sizes = torch.tensor([size] * len(tiles), device=pixels.device)
        return torch.stack(list(self.part.get_image_features(tiles, sizes).pooler_output))


class LlavaOnevisionAdapter(LlavaNextAdapter):
    """As LLaVA-NeXT; its model also shrinks the features of large images."""

    family: ClassVar[str] = "llava_onevision"
    engine_limits: ClassVar[dict[str, int]] = {"image": 0, "video": 0}

"""LLaVA-NeXT and LLaVA-OneVision: a thumbnail, and the tiles of the image at one of several resolutions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor
from transformers.image_processing_utils import get_patch_output_size, select_best_resolution

from smoothgate.certify.certificate import Space
from smoothgate.vision.adapter import Layout, PartType
from smoothgate.vision.preprocessing import filter_of, unsupported
from smoothgate.vision.processor_adapter import ProcessorAdapter
from smoothgate.vision.resize import LinearResize
from smoothgate.vision.tiles import split_tiles, stack_tiles, unstack_tiles


class LlavaNextAdapter(ProcessorAdapter):
    """Its layout is the image's size, which determines the tokens of the padded border that are left out."""

    family: ClassVar[str] = "llava_next"
    part_type: ClassVar[PartType] = "prompt_embeds"
    space: ClassVar[Space] = "stacked_tiles"

    def read_settings(self) -> None:  # noqa: D102
        self._filter = filter_of(self.image_processor)
        self._resolutions = [tuple(size) for size in self.image_processor.image_grid_pinpoints]
        size = {key: value for key, value in dict(self.image_processor.size).items() if value}
        side = int(self.config.vision_config.image_size)
        if set(size.values()) != {side}:
            raise unsupported(f"size is {size}, its vision tower takes {side} x {side}")
        if self._resolutions != [tuple(size) for size in self.config.image_grid_pinpoints]:
            raise unsupported("image_grid_pinpoints of model and processor differ")
        self.tile_height = self._side = side

    def limit_canvas(self, pixels: int) -> int:
        """As `BaseAdapter.limit_canvas`: leaves out the resolutions that exceed it."""
        canvases = {size: math.prod(size) + self._side**2 for size in self._resolutions}
        self._resolutions = [size for size in self._resolutions if canvases[size] <= pixels]
        for settings in (self.image_processor, self.config):
            settings.image_grid_pinpoints = [list(size) for size in self._resolutions]
        return int(min(canvases.values()))

    def resizes(self, height: int, width: int) -> Sequence[LinearResize]:  # noqa: D102
        best = select_best_resolution((height, width), self._resolutions)
        # It reads only the shape.
        inner = get_patch_output_size(torch.empty(3, height, width, device="meta"), best, "channels_first")
        source, side = (height, width), (self._side, self._side)
        return [
            LinearResize.chain(source, side, filter_=self._filter),
            LinearResize.chain(source, inner, filter_=self._filter, window=best),
        ]

    def assemble(self, pieces: Sequence[Tensor]) -> Tensor:  # noqa: D102
        thumbnail, whole = pieces
        return stack_tiles([thumbnail, *split_tiles(whole, self._side)])

    def canvas_from_outputs(self, outputs: Mapping[str, Tensor]) -> Tensor:  # noqa: D102
        return stack_tiles(list(outputs["pixel_values"][0]))

    def layout(self, height: int, width: int) -> Layout:  # noqa: D102
        return height, width

    def filling_size(self, height: int, width: int) -> tuple[int, int]:  # noqa: D102
        rows, columns = select_best_resolution((height, width), self._resolutions)
        return self._resolution_of(rows * columns // self._side**2)

    def _resolution_of(self, tiles: int) -> tuple[int, int]:
        """The first resolution with this number of tiles."""
        return next(
            (height, width) for height, width in self._resolutions if height * width == tiles * self._side**2
        )

    def encode(self, pixels: Tensor, layout: Layout) -> Tensor:  # noqa: D102
        tiles = unstack_tiles(pixels, self._side)
        size = layout or self._resolution_of(tiles.shape[1] - 1)
        sizes = torch.tensor([size] * len(tiles), device=pixels.device)
        return torch.stack(list(self.vision_model.get_image_features(tiles, sizes).pooler_output))


class LlavaOnevisionAdapter(LlavaNextAdapter):
    """Works as LLaVA-NeXT. Its model also shrinks the features of large images."""

    family: ClassVar[str] = "llava_onevision"
    engine_limits: ClassVar[dict[str, int]] = {"image": 0, "video": 0}

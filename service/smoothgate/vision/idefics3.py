"""Idefics3 and SmolVLM: the image's tiles, each after its own tag, and a thumbnail."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor
from transformers.models.idefics3.image_processing_idefics3 import get_resize_output_image_size

from smoothgate.certify.certificate import Space
from smoothgate.vision.adapter import Layout, PartType
from smoothgate.vision.preprocessing import filter_of
from smoothgate.vision.processor_adapter import ProcessorAdapter
from smoothgate.vision.resize import LinearResize
from smoothgate.vision.tiles import split_tiles, stack_tiles, unstack_tiles

_TAGS = re.compile(r"<row_\d+_col_\d+>|<global-img>|<fake_token_around_image>")


class Idefics3Adapter(ProcessorAdapter):
    """Resizes an image to a longest edge, then to whole tiles, and from there to the thumbnail."""

    family: ClassVar[str] = "idefics3"
    part_type: ClassVar[PartType] = "prompt_embeds"
    space: ClassVar[Space] = "stacked_tiles"

    def read_settings(self) -> None:  # noqa: D102
        self._filter = filter_of(self.image_processor)
        self._longest = self.processor_size("longest_edge")
        self.tile_height = self._side = int(self.image_processor.max_image_size["longest_edge"])

    def limit_canvas(self, pixels: int) -> int:
        """As `BaseAdapter.limit_canvas`. An image of k x k tiles has a thumbnail too, unless k is 1."""
        if self.image_processor.do_image_splitting:
            tiles_per_edge = math.isqrt(max(pixels // self._side**2 - 1, 1))
            self._longest = min(self._longest, tiles_per_edge * self._side)
            self.set_processor_size("longest_edge", self._longest)
        return self._side**2

    def resizes(self, height: int, width: int) -> Sequence[LinearResize]:  # noqa: D102
        source, side = (height, width), (self._side, self._side)
        # It reads only the shape.
        first = get_resize_output_image_size(torch.empty(3, height, width, device="meta"), self._longest)
        if not self.image_processor.do_image_splitting:
            return [LinearResize.chain(source, first, side, filter_=self._filter)]
        whole = self._whole_tiles(*first)
        resizes = [LinearResize.chain(source, first, whole, filter_=self._filter)]
        if whole != side:
            resizes.append(LinearResize.chain(source, first, whole, side, filter_=self._filter))
        return resizes

    def _whole_tiles(self, height: int, width: int) -> tuple[int, int]:
        """The size rounded up to whole tiles as `Idefics3ImageProcessor.resize_for_vision_encoder` does."""
        aspect = width / height
        if width >= height:
            width = self._round_up(width)
            return self._round_up(int(width / aspect)), width
        height = self._round_up(height)
        return height, self._round_up(int(height * aspect))

    def _round_up(self, length: int) -> int:
        return -(-length // self._side) * self._side

    def assemble(self, pieces: Sequence[Tensor]) -> Tensor:  # noqa: D102
        return stack_tiles([*split_tiles(pieces[0], self._side), *pieces[1:]])

    def canvas_from_outputs(self, outputs: Mapping[str, Tensor]) -> Tensor:  # noqa: D102
        return stack_tiles(list(outputs["pixel_values"][0]))

    def encode(self, pixels: Tensor, layout: Layout) -> Tensor:  # noqa: D102
        tiles = unstack_tiles(pixels, self._side).contiguous()
        tokens: Tensor = self.vision_model.get_image_features(tiles).pooler_output
        return tokens.reshape(len(tiles), -1, tokens.shape[-1])

    def find_placeholders(self) -> tuple[str, ...]:
        """As `ProcessorAdapter.find_placeholders`, with the tags of all tiles that an image may have."""
        tags = {token for token in self.processor.tokenizer.get_added_vocab() if _TAGS.fullmatch(token)}
        return tuple(sorted(tags | set(super().find_placeholders())))


class SmolVLMAdapter(Idefics3Adapter):
    """Works as Idefics3."""

    family: ClassVar[str] = "smolvlm"
    engine_limits: ClassVar[dict[str, int]] = {"image": 0, "video": 0}

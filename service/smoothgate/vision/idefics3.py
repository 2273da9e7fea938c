"""Idefics3 and SmolVLM: the image's tiles, each after a tag of its own, and a thumbnail of them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor
from transformers.models.idefics3.image_processing_idefics3 import get_resize_output_image_size

from smoothgate.certify.certificate import Space
from smoothgate.vision.adapter import Layout, Way
from smoothgate.vision.base_adapter import SharedAdapter, cut, stack, unstack
from smoothgate.vision.preprocessing import filter_of
from smoothgate.vision.resize import LinearResize

_TAGS = re.compile(r"<row_\d+_col_\d+>|<global-img>|<fake_token_around_image>")


class Idefics3Adapter(SharedAdapter):
    """Resized twice, first to a longest edge and then to whole tiles; the thumbnail a third time."""

    family: ClassVar[str] = "idefics3"
    way: ClassVar[Way] = "prompt_embeds"
    space: ClassVar[Space] = "stacked_tiles"

    def prepare(self) -> None:  # noqa: D102
        self._filter = filter_of(self.images)
        self._longest = self.edge("longest_edge")
        self.tile_height = self._side = int(self.images.max_image_size["longest_edge"])

    def maps(self, height: int, width: int) -> Sequence[LinearResize]:  # noqa: D102
        source, side = (height, width), (self._side, self._side)
        # It reads the shape alone.
        first = get_resize_output_image_size(torch.empty(3, height, width, device="meta"), self._longest)
        if not self.images.do_image_splitting:
            return [LinearResize.to(source, first, side, filter_=self._filter)]
        whole = self._whole(*first)
        maps = [LinearResize.to(source, first, whole, filter_=self._filter)]
        if whole != side:
            maps.append(LinearResize.to(source, first, whole, side, filter_=self._filter))
        return maps

    def _whole(self, height: int, width: int) -> tuple[int, int]:
        """Whole tiles, as `Idefics3ImageProcessor.resize_for_vision_encoder` rounds."""
        aspect = width / height
        if width >= height:
            width = self._up(width)
            return self._up(int(width / aspect)), width
        height = self._up(height)
        return height, self._up(int(height * aspect))

    def _up(self, length: int) -> int:
        return -(-length // self._side) * self._side

    def assemble(self, pieces: Sequence[Tensor]) -> Tensor:  # noqa: D102
        return stack([*cut(pieces[0], self._side), *pieces[1:]])

    def native(self, inputs: Mapping[str, Tensor]) -> Tensor:  # noqa: D102
        return stack(list(inputs["pixel_values"][0]))

    def features(self, pixels: Tensor, layout: Layout) -> Tensor:  # noqa: D102
        tiles = unstack(pixels, self._side).contiguous()
        tokens: Tensor = self.part.get_image_features(tiles).pooler_output
        return tokens.reshape(len(tiles), -1, tokens.shape[-1])

    def _placeholders(self) -> tuple[str, ...]:
        tags = {each for each in self.processor.tokenizer.get_added_vocab() if _TAGS.fullmatch(each)}
        return tuple(sorted(tags | set(super()._placeholders())))


class SmolVLMAdapter(Idefics3Adapter):
    """As Idefics3."""

    family: ClassVar[str] = "smolvlm"
    engine_limits: ClassVar[dict[str, int]] = {"image": 0, "video": 0}

"""Pixtral in the format of transformers, and Mistral3: one canvas in the image's own aspect ratio."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor
from transformers.models.pixtral.image_processing_pixtral import get_resize_output_image_size

from smoothgate.vision.adapter import Layout, PartType
from smoothgate.vision.preprocessing import filter_of, unsupported
from smoothgate.vision.processor_adapter import ProcessorAdapter
from smoothgate.vision.resize import LinearResize


class PixtralAdapter(ProcessorAdapter):
    """Every row of tokens except the last ends with a break token, which is text."""

    family: ClassVar[str] = "pixtral"
    part_type: ClassVar[PartType] = "prompt_embeds"

    def read_settings(self) -> None:  # noqa: D102
        self._filter = filter_of(self.image_processor)
        self._longest = self.processor_size("longest_edge")
        patch, merge = self.processor.patch_size, self.processor.spatial_merge_size
        if not isinstance(patch, int) or not isinstance(merge, int):
            raise unsupported(f"its processor has patch_size {patch} and spatial_merge_size {merge}")
        self._patch = patch * merge

    def limit_canvas(self, pixels: int) -> int:
        """As `BaseAdapter.limit_canvas`. The processor knows only a longest edge: that of a square."""
        self._longest = min(self._longest, math.isqrt(pixels) // self._patch * self._patch)
        self.set_processor_size("longest_edge", self._longest)
        smallest: int = self._patch**2
        return smallest

    def resizes(self, height: int, width: int) -> Sequence[LinearResize]:  # noqa: D102
        # It reads only the shape.
        shape = torch.empty(3, height, width, device="meta")
        target = get_resize_output_image_size(shape, self._longest, self._patch, "channels_first")
        return [LinearResize.chain((height, width), target, filter_=self._filter)]

    def canvas_from_outputs(self, outputs: Mapping[str, Tensor]) -> Tensor:  # noqa: D102
        return outputs["pixel_values"][0]

    def encode(self, pixels: Tensor, layout: Layout) -> Tensor:  # noqa: D102
        sizes = torch.tensor([pixels.shape[2:]] * len(pixels), device=pixels.device)
        return torch.stack(
            list(self.vision_model.get_image_features(pixels, image_sizes=sizes).pooler_output)
        )


class Mistral3Adapter(PixtralAdapter):
    """Works as Pixtral. Its projector also merges patches."""

    family: ClassVar[str] = "mistral3"

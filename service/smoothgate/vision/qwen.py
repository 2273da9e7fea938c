"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL: one canvas in about the image's own aspect ratio."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

from smoothgate.errors import Unacceptable
from smoothgate.vision.adapter import Layout, PartType
from smoothgate.vision.preprocessing import filter_of
from smoothgate.vision.processor_adapter import ProcessorAdapter
from smoothgate.vision.resize import LinearResize


class QwenAdapter(ProcessorAdapter):
    """Its language model uses positions of tokens in space (M-RoPE), so the grid goes to vLLM with them."""

    family: ClassVar[str] = "qwen2_vl"
    part_type: ClassVar[PartType] = "image_embeds"
    engine_limits: ClassVar[dict[str, int]] = {"image": 0, "video": 0}

    def read_settings(self) -> None:  # noqa: D102
        self._filter = filter_of(self.image_processor)
        # The processor's "edges" are areas.
        self._fewest_pixels = self.processor_size("shortest_edge")
        self._most_pixels = self.processor_size("longest_edge")
        self._patch = self.image_processor.patch_size
        self._merge = self.image_processor.merge_size

    def limit_canvas(self, pixels: int) -> int:  # noqa: D102
        self._most_pixels = min(self._most_pixels, pixels)
        self.set_processor_size("longest_edge", self._most_pixels)
        return max(self._fewest_pixels, int(self._patch * self._merge) ** 2)

    def resizes(self, height: int, width: int) -> Sequence[LinearResize]:
        """As `BaseAdapter.resizes`.

        Raises:
            Unacceptable: one side of the image is more than 200 times as long as the other.
        """
        try:
            target = smart_resize(
                height,
                width,
                factor=self._patch * self._merge,
                min_pixels=self._fewest_pixels,
                max_pixels=self._most_pixels,
            )
        except ValueError as error:
            raise Unacceptable(f"The model does not take this image: {error}.") from None
        return [LinearResize.chain((height, width), target, filter_=self._filter)]

    def canvas_from_outputs(self, outputs: Mapping[str, Tensor]) -> Tensor:  # noqa: D102
        _, rows, columns = outputs["image_grid_thw"][0].tolist()
        merge, patch = self._merge, self._patch
        # The processor repeats the frame `temporal_patch_size` times.
        frame = outputs["pixel_values"].view(
            rows // merge, columns // merge, merge, merge, 3, -1, patch, patch
        )[:, :, :, :, :, 0]
        return frame.permute(4, 0, 2, 5, 1, 3, 6).reshape(3, rows * patch, columns * patch)

    def encode(self, pixels: Tensor, layout: Layout) -> Tensor:  # noqa: D102
        patches, rows, columns = self.image_processor.patchify(
            pixels, self._patch, self._merge, self.image_processor.temporal_patch_size
        )
        grid = torch.tensor([[1, rows, columns]] * len(pixels), device=pixels.device)
        return self.tokens_from_output(self.vision_model.get_image_features(patches.flatten(0, 1), grid))

    def tokens_from_output(self, output: object) -> Tensor:
        """The visual tokens (B, T, D) in what the vision model returns."""
        return torch.stack(list(output.pooler_output))  # type: ignore[attr-defined]

    def grid(self, outputs: Mapping[str, Tensor]) -> tuple[int, int, int]:  # noqa: D102
        frames, rows, columns = outputs["image_grid_thw"][0].tolist()
        return frames, rows, columns


class Qwen25Adapter(QwenAdapter):
    """Works as Qwen2-VL."""

    family: ClassVar[str] = "qwen2_5_vl"


class Qwen3Adapter(QwenAdapter):
    """Its language model also takes features of inner layers (deepstack). They are appended along D."""

    family: ClassVar[str] = "qwen3_vl"
    # vLLM turns deepstack off at an image limit of 0.
    engine_limits: ClassVar[dict[str, int]] = {"image": 1, "video": 0}

    def read_settings(self) -> None:  # noqa: D102
        super().read_settings()
        self.hidden_size *= 1 + len(self.config.vision_config.deepstack_visual_indexes)

    def tokens_from_output(self, output: object) -> Tensor:  # noqa: D102
        levels = [output.pooler_output, *output.deepstack_features]  # type: ignore[attr-defined]
        return torch.cat([torch.stack(list(level)) for level in levels], -1)

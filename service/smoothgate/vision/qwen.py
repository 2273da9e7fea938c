"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL: one canvas, in about the image's own shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

from smoothgate.errors import Unacceptable
from smoothgate.vision.adapter import Layout, Way
from smoothgate.vision.base_adapter import SharedAdapter
from smoothgate.vision.preprocessing import filter_of
from smoothgate.vision.resize import LinearResize


class QwenAdapter(SharedAdapter):
    """The tokens' places in space count (M-RoPE), hence the grid goes to vLLM with them."""

    family: ClassVar[str] = "qwen2_vl"
    way: ClassVar[Way] = "image_embeds"
    engine_limits: ClassVar[dict[str, int]] = {"image": 0, "video": 0}

    def prepare(self) -> None:  # noqa: D102
        self._filter = filter_of(self.images)
        self._fewest, self._most = self.edge("shortest_edge"), self.edge("longest_edge")  # areas, in fact
        self._patch = self.images.patch_size
        self._merge = self.images.merge_size

    def maps(self, height: int, width: int) -> Sequence[LinearResize]:
        """As `SharedAdapter.maps`.

        Raises:
            Unacceptable: the image is more than 200 times as long as wide.
        """
        try:
            target = smart_resize(
                height,
                width,
                factor=self._patch * self._merge,
                min_pixels=self._fewest,
                max_pixels=self._most,
            )
        except ValueError as error:
            raise Unacceptable(f"This model does not take such an image: {error}.") from None
        return [LinearResize.to((height, width), target, filter_=self._filter)]

    def native(self, inputs: Mapping[str, Tensor]) -> Tensor:  # noqa: D102
        _, rows, columns = inputs["image_grid_thw"][0].tolist()
        merge, patch = self._merge, self._patch
        # The frame is there `temporal_patch_size` times.
        frame = inputs["pixel_values"].view(
            rows // merge, columns // merge, merge, merge, 3, -1, patch, patch
        )[:, :, :, :, :, 0]
        return frame.permute(4, 0, 2, 5, 1, 3, 6).reshape(3, rows * patch, columns * patch)

    def features(self, pixels: Tensor, layout: Layout) -> Tensor:  # noqa: D102
        patches, rows, columns = self.images.patchify(
            pixels, self._patch, self._merge, self.images.temporal_patch_size
        )
        grid = torch.tensor([[1, rows, columns]] * len(pixels), device=pixels.device)
        return self.joined(self.part.get_image_features(patches.flatten(0, 1), grid))

    def joined(self, output: object) -> Tensor:
        """The visual tokens (B, T, D) of what the vision model returns."""
        return torch.stack(list(output.pooler_output))  # type: ignore[attr-defined]

    def grid(self, inputs: Mapping[str, Tensor]) -> tuple[int, int, int]:  # noqa: D102
        frames, rows, columns = inputs["image_grid_thw"][0].tolist()
        return frames, rows, columns


class Qwen25Adapter(QwenAdapter):
    """As Qwen2-VL in all that is asked of it here."""

    family: ClassVar[str] = "qwen2_5_vl"


class Qwen3Adapter(QwenAdapter):
    """Its language model also takes features of inner layers (deepstack): they stand beside the others."""

    family: ClassVar[str] = "qwen3_vl"
    # vLLM turns deepstack off at an image limit of 0.
    engine_limits: ClassVar[dict[str, int]] = {"image": 1, "video": 0}

    def prepare(self) -> None:  # noqa: D102
        super().prepare()
        self.hidden_size *= 1 + len(self.config.vision_config.deepstack_visual_indexes)

    def joined(self, output: object) -> Tensor:  # noqa: D102
        levels = [output.pooler_output, *output.deepstack_features]  # type: ignore[attr-defined]
        return torch.cat([torch.stack(list(level)) for level in levels], -1)

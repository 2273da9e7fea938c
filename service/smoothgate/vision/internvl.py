"""InternVL in the format of transformers: the image's tiles and, if there are several, a thumbnail."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from torch import Tensor
from transformers.models.got_ocr2.image_processing_got_ocr2 import get_optimal_tiled_canvas
from transformers.models.internvl.processing_internvl import InternVLProcessorKwargs

from smoothgate.certify.certificate import Space
from smoothgate.vision.adapter import Layout, PartType
from smoothgate.vision.preprocessing import filter_of, unsupported
from smoothgate.vision.processor_adapter import ProcessorAdapter
from smoothgate.vision.resize import LinearResize
from smoothgate.vision.tiles import split_tiles, stack_tiles, unstack_tiles


class InternVLAdapter(ProcessorAdapter):
    """Encodes each tile by itself."""

    family: ClassVar[str] = "internvl"
    part_type: ClassVar[PartType] = "prompt_embeds"
    space: ClassVar[Space] = "stacked_tiles"
    engine_limits: ClassVar[dict[str, int]] = {"image": 0, "video": 0}

    def read_settings(self) -> None:  # noqa: D102
        self._filter = filter_of(self.image_processor)
        height, width = self.processor_size("height"), self.processor_size("width")
        if height != width:
            raise unsupported(f"its tiles are not square but {height} x {width}")
        self.tile_height = self._side = height
        # The processor's own default overrides the image processor's.
        self._tiled = bool(InternVLProcessorKwargs._defaults["images_kwargs"]["crop_to_patches"])

    def limit_canvas(self, pixels: int) -> int:
        """As `BaseAdapter.limit_canvas`. Several tiles have a thumbnail beside them."""
        tile = self._side**2
        if not self._tiled:
            return tile
        most = max(pixels // tile - 1, 1)
        self.image_processor.max_patches = min(self.image_processor.max_patches, most)
        fewest: int = self.image_processor.min_patches
        return tile * (fewest + (fewest > 1))

    def resizes(self, height: int, width: int) -> Sequence[LinearResize]:  # noqa: D102
        source, side = (height, width), (self._side, self._side)
        columns, rows = 1, 1
        if self._tiled:
            columns, rows = get_optimal_tiled_canvas(
                source, side, self.image_processor.min_patches, self.image_processor.max_patches
            )
        resizes = [
            LinearResize.chain(source, (rows * self._side, columns * self._side), filter_=self._filter)
        ]
        if rows * columns > 1:
            resizes.append(LinearResize.chain(source, side, filter_=self._filter))
        return resizes

    def assemble(self, pieces: Sequence[Tensor]) -> Tensor:  # noqa: D102
        return stack_tiles([*split_tiles(pieces[0], self._side), *pieces[1:]])

    def canvas_from_outputs(self, outputs: Mapping[str, Tensor]) -> Tensor:  # noqa: D102
        return stack_tiles(list(outputs["pixel_values"]))

    def encode(self, pixels: Tensor, layout: Layout) -> Tensor:  # noqa: D102
        tiles = unstack_tiles(pixels, self._side)
        tokens: Tensor = self.vision_model.get_image_features(tiles.flatten(0, 1)).pooler_output
        return tokens.reshape(len(tiles), -1, tokens.shape[-1])

"""InternVL in the format of transformers: the image's tiles and, where there are several, a thumbnail."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from torch import Tensor
from transformers.models.got_ocr2.image_processing_got_ocr2 import get_optimal_tiled_canvas
from transformers.models.internvl.processing_internvl import InternVLProcessorKwargs

from smoothgate.certify.certificate import Space
from smoothgate.vision.adapter import Layout, Way
from smoothgate.vision.base_adapter import SharedAdapter, cut, stack, unstack
from smoothgate.vision.preprocessing import filter_of, unsupported
from smoothgate.vision.resize import LinearResize


class InternVLAdapter(SharedAdapter):
    """Each tile is encoded by itself."""

    family: ClassVar[str] = "internvl"
    way: ClassVar[Way] = "prompt_embeds"
    space: ClassVar[Space] = "stacked_tiles"
    engine_limits: ClassVar[dict[str, int]] = {"image": 0, "video": 0}

    def prepare(self) -> None:  # noqa: D102
        self._filter = filter_of(self.images)
        height, width = self.edge("height"), self.edge("width")
        if height != width:
            raise unsupported(f"its tiles are not square but {height} x {width}")
        self.tile_height = self._side = height
        # The processor's own default goes before the image processor's.
        self._tiled = bool(InternVLProcessorKwargs._defaults["images_kwargs"]["crop_to_patches"])

    def maps(self, height: int, width: int) -> Sequence[LinearResize]:  # noqa: D102
        source, side = (height, width), (self._side, self._side)
        columns, rows = 1, 1
        if self._tiled:
            columns, rows = get_optimal_tiled_canvas(
                source, side, self.images.min_patches, self.images.max_patches
            )
        maps = [LinearResize.to(source, (rows * self._side, columns * self._side), filter_=self._filter)]
        if rows * columns > 1:
            maps.append(LinearResize.to(source, side, filter_=self._filter))
        return maps

    def assemble(self, pieces: Sequence[Tensor]) -> Tensor:  # noqa: D102
        return stack([*cut(pieces[0], self._side), *pieces[1:]])

    def native(self, inputs: Mapping[str, Tensor]) -> Tensor:  # noqa: D102
        return stack(list(inputs["pixel_values"]))

    def features(self, pixels: Tensor, layout: Layout) -> Tensor:  # noqa: D102
        tiles = unstack(pixels, self._side)
        tokens: Tensor = self.part.get_image_features(tiles.flatten(0, 1)).pooler_output
        return tokens.reshape(len(tiles), -1, tokens.shape[-1])

"""LLaVA-1.5 and similar models: a CLIP or SigLIP tower, one fixed canvas, a projector of two layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor, nn
from transformers import AutoImageProcessor, AutoTokenizer

from smoothgate.pictures.images import DecodedImage
from smoothgate.vision.adapter import Layout, PartType, Prompt
from smoothgate.vision.base_adapter import BaseAdapter
from smoothgate.vision.preprocessing import from_processor, unsupported
from smoothgate.vision.resize import LinearResize
from smoothgate.vision.text_embeddings import PLAIN

# The towers, and how many class tokens each puts before the patches.
_CLASS_TOKENS = {"clip_vision_model": 1, "siglip_vision_model": 0}


class LlavaAdapter(BaseAdapter):
    """Loads only the layers of the tower up to the one that the projector reads, as vLLM does."""

    family: ClassVar[str] = "llava"
    part_type: ClassVar[PartType] = "image_embeds"
    prompt_lists: ClassVar[bool] = True

    tokens_per_image: int

    canvas_shape: tuple[int, int, int]

    def __init__(
        self,
        model: str,
        *,
        device: torch.device,
        dtype: torch.dtype,
        max_canvas_pixels: int | None = None,
    ) -> None:
        processor = AutoImageProcessor.from_pretrained(model)
        super().__init__(model, processor, device=device, dtype=dtype, max_canvas_pixels=max_canvas_pixels)
        tokenizer = AutoTokenizer.from_pretrained(model)
        self.placeholders = (tokenizer.convert_ids_to_tokens(self.config.image_token_index),)
        if self.config.get_text_config().model_type in PLAIN:
            self.list_token = self.config.image_token_index, self.placeholders[0]

    def read_settings(self) -> None:  # noqa: D102
        self._preprocessing = from_processor(self.image_processor)
        vision = self.config.vision_config
        if vision.model_type not in _CLASS_TOKENS:
            raise unsupported(f"its vision tower {vision.model_type} is none of {', '.join(_CLASS_TOKENS)}")
        height, width = self._preprocessing.canvas
        if (height, width) != (vision.image_size, vision.image_size):
            raise unsupported(
                f"its image processor makes canvases of {height} x {width} pixels, "
                f"its vision tower takes {vision.image_size} x {vision.image_size}"
            )
        layer, layers = self.config.vision_feature_layer, vision.num_hidden_layers
        if not isinstance(layer, int):
            raise unsupported(f"vision_feature_layer is {layer}: only a single layer is served, as in vLLM")
        used = layer if layer >= 0 else layers + 1 + layer
        if not 0 < used <= layers:
            raise unsupported(f"vision_feature_layer is {layer}, but it has {layers} layers")
        vision.num_hidden_layers = used
        vision.vision_use_head = False
        self._drop_first = self.config.vision_feature_select_strategy == "default"
        side = vision.image_size // vision.patch_size
        self.canvas_shape = (3, height, width)
        self.token_grid = (side, side)
        self.tokens_per_image = side**2 + _CLASS_TOKENS[vision.model_type] - self._drop_first

    def limit_canvas(self, pixels: int) -> int:
        """As `BaseAdapter.limit_canvas`: all canvases have one size."""
        return self.canvas_shape[1] * self.canvas_shape[2]

    def trim(self, vision_model: Any) -> None:
        """Remove the norm after the last layer: the projector reads the features before it."""
        vision_model.vision_tower.post_layernorm = nn.Identity()

    def digest_facts(self) -> dict[str, Any]:  # noqa: D102
        names = ("model_type", "hidden_act", "layer_norm_eps", "num_attention_heads", "patch_size")
        return {
            "tower": {name: getattr(self.config.vision_config, name) for name in names},
            "select": self.config.vision_feature_select_strategy,
            "projector": self.config.projector_hidden_act,
            "preprocessing": asdict(self._preprocessing),
        }

    def resizes(self, height: int, width: int) -> Sequence[LinearResize]:  # noqa: D102
        return [self._preprocessing.linear_resize(height, width)]

    def encode(self, pixels: Tensor, layout: Layout) -> Tensor:  # noqa: D102
        features = self.vision_model.vision_tower(pixel_values=pixels).last_hidden_state
        tokens: Tensor = self.vision_model.multi_modal_projector(
            features[:, 1:] if self._drop_first else features
        )
        return tokens

    def canvas_native(self, image: DecodedImage) -> Tensor:  # noqa: D102
        outputs = self.image_processor(
            images=Image.fromarray(image.pixels), do_normalize=False, return_tensors="pt"
        )
        pixels: Tensor = outputs["pixel_values"][0]
        return pixels

    def prompt(self, height: int, width: int) -> Prompt:
        """As `VisionAdapter.prompt`: the same for every size."""
        return Prompt(self.part_type, (self.tokens_per_image,))

"""LLaVA-1.5 and its kin: one CLIP or SigLIP tower, one fixed canvas, two linear layers as projector.

Only the vision part is read from the checkpoint, and of the tower only the layers up to the one whose
features are used, as in vLLM.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor, nn
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer, LlavaConfig
from transformers.models.llava.modeling_llava import LlavaMultiModalProjector, LlavaPreTrainedModel

from smoothgate.certify.certificate import Space
from smoothgate.vision.adapter import Canvas, Layout, Prompt, Way
from smoothgate.vision.base_adapter import digest
from smoothgate.vision.images import DecodedImage
from smoothgate.vision.preprocessing import Preprocessing, from_processor, unsupported

# The towers, and how many class tokens each puts before the patches.
_CLASS_TOKENS = {"clip_vision_model": 1, "siglip_vision_model": 0}


class _VisionPart(LlavaPreTrainedModel):  # type: ignore[misc]
    """A LLaVA model without its language model, so that `from_pretrained` reads no other weight."""

    _keys_to_ignore_on_load_unexpected = (r".",)

    def __init__(self, config: LlavaConfig) -> None:
        super().__init__(config)
        self.vision_tower = AutoModel.from_config(config.vision_config)
        # The projector reads the features before this norm, which belongs to classification.
        self.vision_tower.post_layernorm = nn.Identity()
        self.multi_modal_projector = LlavaMultiModalProjector(config)
        self.drop_first = config.vision_feature_select_strategy == "default"
        self.post_init()

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Normalised pixels (B, 3, H, W) -> visual tokens (B, T, D)."""
        features = self.vision_tower(pixel_values=pixel_values).last_hidden_state
        tokens: Tensor = self.multi_modal_projector(features[:, 1:] if self.drop_first else features)
        return tokens


class LlavaAdapter:
    """The `VisionAdapter` of LLaVA checkpoints in the format of transformers."""

    family: ClassVar[str] = "llava"
    way: ClassVar[Way] = "image_embeds"
    space: ClassVar[Space] = "encoder_input"
    engine_limits: ClassVar[dict[str, int]] = {"image": 0}
    tile_height = None

    def __init__(
        self,
        part: _VisionPart,
        settings: Preprocessing,
        processor: Any,
        image_token: str,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        vision = part.config.vision_config
        side = vision.image_size // vision.patch_size
        self.placeholders = (image_token,)
        self.canvas_shape = (3, *settings.canvas)
        self.token_grid = (side, side)
        self.tokens_per_image = side**2 + _CLASS_TOKENS[vision.model_type] - part.drop_first
        self.hidden_size = int(part.config.text_config.hidden_size)
        self.digest = _digest(part, settings)
        self.device = device
        self.dtype = dtype
        self._part = part.to(device=device, dtype=dtype)
        self._settings = settings
        self._processor = processor
        self._mean = torch.tensor(settings.mean, device=device)[:, None, None]
        self._std = torch.tensor(settings.std, device=device)[:, None, None]

    @classmethod
    def load(cls, model: str, *, device: torch.device, dtype: torch.dtype) -> LlavaAdapter:
        """Load from a directory or a Hugging Face id; see `smoothgate.vision.load`."""
        config = LlavaConfig.from_pretrained(model)
        processor = AutoImageProcessor.from_pretrained(model)
        settings = from_processor(processor)
        _keep_used_layers(config, settings)
        # float32 holds what any checkpoint stores, so that the digest does not depend on `dtype`.
        part, report = _VisionPart.from_pretrained(
            model, config=config, dtype=torch.float32, output_loading_info=True
        )
        if report["missing_keys"]:
            raise unsupported(f"it lacks the weights {', '.join(sorted(report['missing_keys']))}")
        image_token = AutoTokenizer.from_pretrained(model).convert_ids_to_tokens(config.image_token_index)
        return cls(part.eval().requires_grad_(False), settings, processor, image_token, device, dtype)

    def canvas(self, image: DecodedImage) -> Canvas:
        """The canvas for smoothing: resized in floating point, so that the norm of the way to it is known."""
        plan = self._settings.plan(image.height, image.width)
        return Canvas(torch.from_numpy(plan.apply(image.pixels)), plan.operator_norm)

    def canvas_native(self, image: DecodedImage) -> Tensor:
        """(3, H, W) float32 in [0, 1] by the checkpoint's own 8-bit processor: what vLLM itself would see."""
        inputs = self._processor(
            images=Image.fromarray(image.pixels), do_normalize=False, return_tensors="pt"
        )
        pixels: Tensor = inputs["pixel_values"][0]
        return pixels

    def prompt(self, height: int, width: int) -> Prompt:
        """As `VisionAdapter.prompt`: the same for every size."""
        return Prompt(self.way, (self.tokens_per_image,))

    def full_size(self, height: int, width: int) -> tuple[int, int]:
        """As `VisionAdapter.full_size`: any."""
        return height, width

    def tokens(self, x: Tensor, layout: Layout = ()) -> Tensor:
        """h: (B, 3, H, W) of any real values -> (B, T, D) in `dtype`. Differentiable in x.

        Normalises in the dtype of x; then tower, feature selection and projector in `dtype`.
        """
        tokens: Tensor = self._part(((x - self._mean) / self._std).to(self.dtype))
        return tokens


def _keep_used_layers(config: LlavaConfig, settings: Preprocessing) -> None:
    """Refuse what is not supported and cut the tower down to what the projector reads."""
    vision = config.vision_config
    if vision.model_type not in _CLASS_TOKENS:
        raise unsupported(f"its vision tower {vision.model_type} is none of {', '.join(_CLASS_TOKENS)}")
    if settings.canvas != (vision.image_size, vision.image_size):
        raise unsupported(
            f"its image processor makes canvases of {settings.canvas[0]} x {settings.canvas[1]} pixels, "
            f"its vision tower takes {vision.image_size} x {vision.image_size}"
        )
    layer = config.vision_feature_layer
    if not isinstance(layer, int):
        raise unsupported(f"vision_feature_layer is {layer}: only a single layer is served, as in vLLM")
    used = layer if layer >= 0 else vision.num_hidden_layers + 1 + layer
    if not 0 < used <= vision.num_hidden_layers:
        raise unsupported(f"vision_feature_layer is {layer}, but it has {vision.num_hidden_layers} layers")
    vision.num_hidden_layers = used
    vision.vision_use_head = False


def _digest(part: _VisionPart, settings: Preprocessing) -> str:
    config = part.config
    facts = {
        "tower": {
            key: getattr(config.vision_config, key)
            for key in ("model_type", "hidden_act", "layer_norm_eps", "num_attention_heads", "patch_size")
        },
        "select": config.vision_feature_select_strategy,
        "projector": config.projector_hidden_act,
        "preprocessing": asdict(settings),
    }
    return digest(facts, part.state_dict())

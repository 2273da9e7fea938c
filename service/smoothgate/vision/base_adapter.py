"""What all adapters share: canvas, normalisation, loading without the language model, digest."""

from __future__ import annotations

import hashlib
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import AutoConfig
from transformers.models.auto.modeling_auto import MODEL_MAPPING

from smoothgate.certify.certificate import Space
from smoothgate.errors import SmoothgateError, Unacceptable
from smoothgate.pictures.images import DecodedImage
from smoothgate.vision.adapter import Canvas, Layout, PartType, Prompt
from smoothgate.vision.preprocessing import unsupported
from smoothgate.vision.resize import LinearResize


def digest_of(facts: Mapping[str, Any], weights: Mapping[str, Tensor]) -> str:
    """sha256 hex over facts and the float32 values of weights."""
    sha = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode())
    for name, weight in sorted(weights.items()):
        sha.update(f"{name} {list(weight.shape)}\n".encode())
        sha.update(weight.float().cpu().contiguous().numpy().data)
    return sha.hexdigest()


def load_without_language_model(model: str, config: Any, trim: Callable[[Any], None]) -> nn.Module:
    """Load a checkpoint's model without its language model, so that no other weight is read.

    float32 holds what any checkpoint stores.

    Args:
        model: a directory or a Hugging Face id.
        config: its configuration.
        trim: called with the new model before weights are loaded; removes modules that are not used.

    Raises:
        SmoothgateError: code `unsupported_model`: the checkpoint lacks weights.
    """
    base = MODEL_MAPPING[type(config)]

    class VisionModel(base):  # type: ignore[misc, valid-type]
        _keys_to_ignore_on_load_unexpected = (r".",)

        def __init__(self, config: Any) -> None:
            text = config.get_text_config()
            text.num_hidden_layers = 0
            if getattr(text, "layer_types", None) is not None:
                text.layer_types = []
            super().__init__(config)
            setattr(self, "text_model" if hasattr(self, "text_model") else "language_model", None)
            trim(self)

        def get_input_embeddings(self) -> None:
            return None

    VisionModel.__name__ = base.__name__  # transformers finds the layouts of older checkpoints by name
    vision_model, report = VisionModel.from_pretrained(
        model, config=config, dtype=torch.float32, output_loading_info=True
    )
    if report["missing_keys"]:
        raise unsupported(f"it lacks the weights {', '.join(sorted(report['missing_keys']))}")
    module: nn.Module = vision_model.eval().requires_grad_(False)
    return module


class BaseAdapter(ABC):
    """A `VisionAdapter` whose model is one of transformers.

    A subclass gives the prompt, and says what the image processor does to an image as linear maps
    (`resizes`) and how the model computes the visual tokens (`encode`).

    Args:
        model: a directory or a Hugging Face id.
        image_processor: the checkpoint's own.
        device, dtype: where h is computed, and in which arithmetic.
        max_canvas_pixels: the most pixels of a canvas; None: as many as the checkpoint makes.

    Raises:
        SmoothgateError: code `unsupported_model`: a setting of the checkpoint is not supported. Code
            `canvas_limit_too_small`: every canvas of the checkpoint has more pixels.
    """

    family: ClassVar[str]
    part_type: ClassVar[PartType]
    space: ClassVar[Space] = "encoder_input"
    engine_limits: ClassVar[dict[str, int]] = {"image": 0}
    #: Whether prompts may be sent to vLLM as embeddings alone, where the language model allows it.
    prompt_lists: ClassVar[bool] = False

    canvas_shape: tuple[int, int, int] | None = None
    tile_height: int | None = None
    token_grid: tuple[int, int] | None = None
    tokens_per_image: int | None = None
    placeholders: tuple[str, ...] = ()
    list_token: tuple[int, str] | None = None

    def __init__(
        self,
        model: str,
        image_processor: Any,
        *,
        device: torch.device,
        dtype: torch.dtype,
        max_canvas_pixels: int | None = None,
    ) -> None:
        self.config = AutoConfig.from_pretrained(model)
        self.image_processor = image_processor
        self.device = device
        self.dtype = dtype
        self.hidden_size = int(self.config.get_text_config().hidden_size)
        self.max_canvas_pixels = max_canvas_pixels
        self.read_settings()
        facts = self.digest_facts()
        if max_canvas_pixels is not None:
            smallest = self.limit_canvas(max_canvas_pixels)
            if smallest > max_canvas_pixels:
                raise SmoothgateError(
                    f"SMOOTHGATE_MAX_CANVAS_PIXELS is {max_canvas_pixels}, but the smallest canvas of this "
                    f"checkpoint has {smallest} pixels.",
                    code="canvas_limit_too_small",
                )
        vision_model = load_without_language_model(model, self.config, self.trim)
        self.digest = digest_of(facts, vision_model.state_dict())
        self.vision_model: Any = vision_model.to(device=device, dtype=dtype)
        self._mean = torch.tensor(image_processor.image_mean, device=device)[:, None, None]
        self._std = torch.tensor(image_processor.image_std, device=device)[:, None, None]
        self._cached_resizes = lru_cache(maxsize=64)(self.resizes)

    @abstractmethod
    def read_settings(self) -> None:
        """Read the settings of image processor and model, before any weight is loaded.

        Raises:
            SmoothgateError: code `unsupported_model`: one of them is not supported.
        """

    @abstractmethod
    def limit_canvas(self, pixels: int) -> int:
        """Change the settings of image processor and model so that canvases have at most so many pixels.

        Returns:
            The pixels of the smallest canvas. If they are more than `pixels`, the limit cannot be kept.
        """

    def trim(self, vision_model: Any) -> None:  # noqa: B027
        """Remove modules that h does not use from the model, before its weights are loaded."""

    @abstractmethod
    def digest_facts(self) -> dict[str, Any]:
        """Settings of model and image processor that determine h. The digest covers them and the weights."""

    @abstractmethod
    def resizes(self, height: int, width: int) -> Sequence[LinearResize]:
        """What the processor makes of an image of this size, as linear maps, in the order of the canvas."""

    def assemble(self, pieces: Sequence[Tensor]) -> Tensor:
        """The canvas (3, H, W) from what the linear maps make."""
        (x,) = pieces
        return x

    @abstractmethod
    def encode(self, pixels: Tensor, layout: Layout) -> Tensor:
        """Normalised canvases (B, 3, H, W) -> visual tokens (B, T, D)."""

    @abstractmethod
    def canvas_native(self, image: DecodedImage) -> Tensor:
        """As `VisionAdapter.canvas_native`."""

    @abstractmethod
    def prompt(self, height: int, width: int) -> Prompt:
        """As `VisionAdapter.prompt`."""

    def layout(self, height: int, width: int) -> Layout:
        """The layout of an image of this size."""
        return ()

    def filling_size(self, height: int, width: int) -> tuple[int, int]:
        """As `VisionAdapter.filling_size`."""
        return height, width

    def canvas(self, image: DecodedImage) -> Canvas:
        """As `VisionAdapter.canvas`.

        The norm of several maps together is at most the root of the sum of their squared norms.
        """
        resizes = self._resizes_within_limit(image.height, image.width)
        x = self.assemble([torch.from_numpy(resize.apply(image.pixels)) for resize in resizes])
        norms = [resize.operator_norm for resize in resizes]
        norm = norms[0] if len(norms) == 1 else math.hypot(*norms) * (1 + 1e-12)
        return Canvas(x.contiguous(), norm, self.layout(image.height, image.width))

    def canvas_values(self, height: int, width: int) -> int:
        """As `VisionAdapter.canvas_values`."""
        return sum(each.constant.size for each in self._resizes_within_limit(height, width))

    def _resizes_within_limit(self, height: int, width: int) -> Sequence[LinearResize]:
        """As `resizes`. The processors enlarge a very long image, whatever their settings are.

        Raises:
            Unacceptable: the canvas would have more pixels than the operator's limit.
        """
        resizes = self._cached_resizes(height, width)
        pixels = sum(each.constant[0].size for each in resizes)
        if self.max_canvas_pixels is not None and pixels > self.max_canvas_pixels:
            raise Unacceptable(
                f"An image of {width} x {height} pixels becomes a canvas of {pixels} pixels; this service "
                f"takes at most {self.max_canvas_pixels}.",
                code="canvas_too_large",
            )
        return resizes

    def tokens(self, x: Tensor, layout: Layout = ()) -> Tensor:
        """As `VisionAdapter.tokens`. Normalises in the dtype of x and computes the rest in `dtype`."""
        return self.encode(((x - self._mean) / self._std).to(self.dtype), layout)

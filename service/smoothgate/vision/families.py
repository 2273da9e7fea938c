"""The model families that are served, and how a checkpoint's configuration selects one."""

from __future__ import annotations

from importlib import import_module
from typing import Any, Protocol

import torch
from transformers import PretrainedConfig

from smoothgate.certify.certificate import Space
from smoothgate.errors import SmoothgateError
from smoothgate.vision.adapter import PartType, VisionAdapter


class Family(Protocol):
    """The class of an adapter: what is known about a family before a checkpoint is loaded."""

    family: str
    part_type: PartType
    space: Space
    engine_limits: dict[str, int]

    def __call__(
        self, model: str, *, device: torch.device, dtype: torch.dtype, max_canvas_pixels: int | None = None
    ) -> VisionAdapter:
        """Load a checkpoint from a directory or a Hugging Face id."""
        ...


#: `model_type` of a checkpoint's configuration -> module and class of its adapter.
FAMILIES = {
    "llava": "llava:LlavaAdapter",
    "qwen2_vl": "qwen:QwenAdapter",
    "qwen2_5_vl": "qwen:Qwen25Adapter",
    "qwen3_vl": "qwen:Qwen3Adapter",
    "llava_next": "llava_next:LlavaNextAdapter",
    "llava_onevision": "llava_next:LlavaOnevisionAdapter",
    "internvl": "internvl:InternVLAdapter",
    "idefics3": "idefics3:Idefics3Adapter",
    "smolvlm": "idefics3:SmolVLMAdapter",
    "pixtral": "pixtral:PixtralAdapter",
    "mistral3": "pixtral:Mistral3Adapter",
}

_BOTH_DIRECTIONS = (
    "its language model attends to image tokens in both directions, and vLLM drops that mask for embeddings"
)

#: Why some others are not served.
UNSUPPORTED = {"gemma3": _BOTH_DIRECTIONS, "paligemma": _BOTH_DIRECTIONS}


def family_of(model: str) -> Family:
    """The family of a checkpoint, given as a directory or a Hugging Face id.

    Raises:
        SmoothgateError: code `unsupported_model`: the family is not served. The message says why, and
            lists the families that are.
    """
    config = PretrainedConfig.get_config_dict(model)[0]
    model_type = _model_type(config)
    if model_type not in FAMILIES:
        reason = f": {UNSUPPORTED[model_type]}" if model_type in UNSUPPORTED else ""
        raise SmoothgateError(
            f"Models of type {model_type} are not supported{reason}. Supported are: {', '.join(FAMILIES)}.",
            code="unsupported_model",
        )
    return adapter_class(model_type)


def adapter_class(model_type: str) -> Family:
    """The adapter class of an entry of `FAMILIES`."""
    module, _, name = FAMILIES[model_type].partition(":")
    family: Family = getattr(import_module(f"smoothgate.vision.{module}"), name)
    return family


def load(
    model: str, *, device: torch.device | str, dtype: torch.dtype, max_canvas_pixels: int | None = None
) -> VisionAdapter:
    """Load the vision part of a checkpoint.

    Args:
        model: a directory or a Hugging Face id.
        device, dtype: where h is computed, and in which arithmetic.
        max_canvas_pixels: the most pixels of a canvas; None: as many as the checkpoint makes.

    Raises:
        SmoothgateError: code `unsupported_model`: the family or one of its settings is not supported. Code
            `canvas_limit_too_small`: every canvas of the checkpoint has more pixels.
    """
    family = family_of(model)
    return family(model, device=torch.device(device), dtype=dtype, max_canvas_pixels=max_canvas_pixels)


def _model_type(config: dict[str, Any]) -> str:
    """The `model_type`, or `pixtral` for a LLaVA with Pixtral's tower: Pixtral is published as one."""
    model_type = str(config.get("model_type"))
    tower = str(config.get("vision_config", {}).get("model_type"))
    return "pixtral" if (model_type, tower) == ("llava", "pixtral") else model_type

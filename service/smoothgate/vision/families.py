"""The model families that are served, and the choice of one from a checkpoint's configuration."""

from __future__ import annotations

from importlib import import_module
from typing import Any, Protocol

import torch
from transformers import PretrainedConfig

from smoothgate.certify.certificate import Space
from smoothgate.errors import SmoothgateError
from smoothgate.vision.adapter import VisionAdapter, Way


class Family(Protocol):
    """The class of an adapter: what is known of a family before anything is loaded."""

    family: str
    way: Way
    space: Space
    engine_limits: dict[str, int]

    def load(self, model: str, *, device: torch.device, dtype: torch.dtype) -> VisionAdapter:
        """Load from a directory or a Hugging Face id."""
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

#: Why others are not.
REFUSED = {
    "gemma3": "its language model looks at image tokens in both directions, which vLLM's embeddings lose",
    "paligemma": "its language model looks at image tokens in both directions, which vLLM's embeddings lose",
}


def family_of(model: str) -> Family:
    """The family of a checkpoint, given as a directory or a Hugging Face id.

    Raises:
        SmoothgateError: code `unsupported_model`: it is not served; with the reason and the list.
    """
    config = PretrainedConfig.get_config_dict(model)[0]
    kind = _kind(config)
    if kind not in FAMILIES:
        reason = f": {REFUSED[kind]}" if kind in REFUSED else ""
        raise SmoothgateError(
            f"Models of type {kind} are not supported{reason}. Supported are: {', '.join(FAMILIES)}.",
            code="unsupported_model",
        )
    return adapter_class(kind)


def adapter_class(kind: str) -> Family:
    """The adapter of an entry of `FAMILIES`."""
    module, _, name = FAMILIES[kind].partition(":")
    family: Family = getattr(import_module(f"smoothgate.vision.{module}"), name)
    return family


def load(model: str, *, device: torch.device | str, dtype: torch.dtype) -> VisionAdapter:
    """Load the vision part of a checkpoint, given as a directory or a Hugging Face id.

    Raises:
        SmoothgateError: code `unsupported_model`; the family or one of its settings is not supported.
    """
    return family_of(model).load(model, device=torch.device(device), dtype=dtype)


def _kind(config: dict[str, Any]) -> str:
    """Pixtral comes as a LLaVA whose tower is Pixtral's."""
    kind = str(config.get("model_type"))
    tower = str(config.get("vision_config", {}).get("model_type"))
    return "pixtral" if (kind, tower) == ("llava", "pixtral") else kind

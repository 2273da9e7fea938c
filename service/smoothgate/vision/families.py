"""The model families that are served, and how a checkpoint's configuration selects one."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import torch
from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HFValidationError,
    RepositoryNotFoundError,
)
from transformers import PretrainedConfig
from transformers.utils.logging import disable_progress_bar

from smoothgate.certify.certificate import Space
from smoothgate.errors import SmoothgateError
from smoothgate.vision.adapter import PartType, VisionAdapter


class Family(Protocol):
    """The class of an adapter: what is known about a family before a checkpoint is loaded."""

    family: str
    part_type: PartType
    space: Space
    engine_limits: dict[str, int]
    prompt_lists: bool

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

_CONFIG = "config.json"
_WEIGHTS = ("*.safetensors", "*.bin")
_HUB_SECONDS = 10.0

_BOTH_DIRECTIONS = (
    "its language model attends to image tokens in both directions, and vLLM drops that mask for embeddings"
)

#: Why some others are not served.
UNSUPPORTED = {"gemma3": _BOTH_DIRECTIONS, "paligemma": _BOTH_DIRECTIONS}


def require_checkpoint(model: str) -> None:
    """Check that a checkpoint is there, before anything of it is loaded.

    Args:
        model: a directory or a Hugging Face id.

    Raises:
        SmoothgateError: code `no_model`: there is no such directory, it lacks a configuration or weights, or
            the id is not in the cache and Hugging Face does not give it.
    """
    folder = Path(model)
    if folder.is_dir():
        if not (folder / _CONFIG).is_file():
            raise _no_model(f"{model} holds no {_CONFIG}: it is not a checkpoint in transformers' format.")
        if not any(found for pattern in _WEIGHTS for found in folder.glob(pattern)):
            raise _no_model(f"{model} holds no weights ({' or '.join(_WEIGHTS)}).")
    elif folder.is_absolute() or model.startswith((".", "~")) or model.count("/") != 1:
        raise _no_model(f"There is no folder {model}. A Hugging Face id has the form OWNER/NAME.")
    else:
        _require_on_hub(model)


def _require_on_hub(model: str) -> None:
    try:
        if isinstance(try_to_load_from_cache(model, _CONFIG), str):
            return
        # One try: transformers and vLLM would repeat it for half a minute.
        get_hf_file_metadata(hf_hub_url(model, _CONFIG), timeout=_HUB_SECONDS)
    except HFValidationError as error:
        raise _no_model(
            f"There is no folder {model}, and a Hugging Face id cannot look like this."
        ) from error
    except GatedRepoError as error:
        raise _no_model(
            f"Hugging Face gives {model} only to those who have accepted its terms: `hf auth login`."
        ) from error
    except RepositoryNotFoundError as error:
        raise _no_model(f"There is no folder {model}, and Hugging Face has no such model.") from error
    except EntryNotFoundError as error:
        raise _no_model(f"{model} has no {_CONFIG} on Hugging Face.") from error
    except (
        Exception
    ) as error:  # which errors of transport there are depends on the version of the hub's client
        raise _no_model(
            f"There is no folder {model}, it is not among the models that were downloaded, and Hugging Face "
            f"cannot be reached: {error}"
        ) from error


def _no_model(message: str) -> SmoothgateError:
    return SmoothgateError(message, code="no_model")


def family_of(model: str) -> Family:
    """The family of a checkpoint, given as a directory or a Hugging Face id.

    Raises:
        SmoothgateError: code `unsupported_model`: the family is not served. The message says why, and
            lists the families that are. Code `no_model`: the configuration cannot be read.
    """
    try:
        config = PretrainedConfig.get_config_dict(model)[0]
    except (OSError, ValueError) as error:
        raise _no_model(
            f"The configuration of {model} cannot be read: {str(error).splitlines()[0]}"
        ) from error
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


def hide_progress() -> None:
    """Show no progress bars of transformers in this process: they would stand between the lines of a log."""
    disable_progress_bar()


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
            `no_model`: see `require_checkpoint`. Code `canvas_limit_too_small`: every canvas of the
            checkpoint has more pixels.
    """
    require_checkpoint(model)
    family = family_of(model)
    return family(model, device=torch.device(device), dtype=dtype, max_canvas_pixels=max_canvas_pixels)


def _model_type(config: dict[str, Any]) -> str:
    """The `model_type`, or `pixtral` for a LLaVA with Pixtral's tower: Pixtral is published as one."""
    model_type = str(config.get("model_type"))
    tower = str(config.get("vision_config", {}).get("model_type"))
    return "pixtral" if (model_type, tower) == ("llava", "pixtral") else model_type

"""The way that all families share: the checkpoint's own processor gives geometry and prompt, its own model
the features.

An adapter of a family says what its processor does to an image as linear maps (`maps`) and how the
processor's output stands for the canvas (`native`, `features`). The rest is here: the canvas in floating
point, normalisation after the noise, the part of the checkpoint that is loaded, digest and prompt.
"""

from __future__ import annotations

import hashlib
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import groupby
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from transformers import AutoConfig, AutoProcessor
from transformers.models.auto.modeling_auto import MODEL_MAPPING

from smoothgate.certify.certificate import Space
from smoothgate.vision.adapter import Canvas, Layout, Prompt, Way
from smoothgate.vision.images import DecodedImage
from smoothgate.vision.preprocessing import require_rescaled, unsupported
from smoothgate.vision.resize import LinearResize

# The token that vLLM marks the places of `prompt_embeds` with.
_PROMPT_EMBEDS = "<prompt_embeds>"
# Facts about the files that say nothing of what is computed.
_NOT_IN_DIGEST = frozenset({"transformers_version", "dtype", "torch_dtype", "architectures", "_name_or_path"})


def digest(facts: Mapping[str, Any], weights: Mapping[str, Tensor]) -> str:
    """sha256 hex over facts and float32 values of weights."""
    sha = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode())
    for name, weight in sorted(weights.items()):
        sha.update(f"{name} {list(weight.shape)}\n".encode())
        sha.update(weight.float().cpu().contiguous().numpy().data)
    return sha.hexdigest()


def load_part(model: str, config: Any) -> nn.Module:
    """A checkpoint's model without its language model, in float32.

    Raises:
        SmoothgateError: code `unsupported_model`: weights are missing.
    """
    base = MODEL_MAPPING[type(config)]

    class Part(base):  # type: ignore[misc, valid-type]
        _keys_to_ignore_on_load_unexpected = (r".",)

        def __init__(self, config: Any) -> None:
            text = config.get_text_config()
            text.num_hidden_layers = 0
            if getattr(text, "layer_types", None) is not None:
                text.layer_types = []
            super().__init__(config)
            setattr(self, "text_model" if hasattr(self, "text_model") else "language_model", None)

        def get_input_embeddings(self) -> None:
            return None

    Part.__name__ = base.__name__  # transformers looks the layouts of older checkpoints up by it
    part, report = Part.from_pretrained(model, config=config, dtype=torch.float32, output_loading_info=True)
    if report["missing_keys"]:
        raise unsupported(f"it lacks the weights {', '.join(sorted(report['missing_keys']))}")
    module: nn.Module = part.eval().requires_grad_(False)
    return module


def stack(pieces: Sequence[Tensor]) -> Tensor:
    """Pieces (3, H_i, W) below each other."""
    return torch.cat(list(pieces), 1)


def cut(image: Tensor, side: int) -> list[Tensor]:
    """(3, R * side, C * side) -> its tiles (3, side, side), row by row."""
    rows = torch.split(image, side, 1)
    return [tile for row in rows for tile in torch.split(row, side, 2)]


def unstack(x: Tensor, tile_height: int) -> Tensor:
    """Canvases (B, 3, K * h, w) -> their tiles (B, K, 3, h, w)."""
    batch, colours, _, width = x.shape
    return x.reshape(batch, colours, -1, tile_height, width).transpose(1, 2)


class SharedAdapter(ABC):
    """The `VisionAdapter` of a checkpoint that a processor and a model of transformers belong to."""

    family: ClassVar[str]
    way: ClassVar[Way]
    space: ClassVar[Space] = "encoder_input"
    engine_limits: ClassVar[dict[str, int]] = {"image": 0}

    canvas_shape: tuple[int, int, int] | None = None
    tile_height: int | None = None
    token_grid: tuple[int, int] | None = None
    tokens_per_image: int | None = None

    def __init__(self, model: str, *, device: torch.device, dtype: torch.dtype) -> None:
        self.config = AutoConfig.from_pretrained(model)
        self.processor = AutoProcessor.from_pretrained(model)
        self.images = self.processor.image_processor
        require_rescaled(self.images)
        self.device = device
        self.dtype = dtype
        self.hidden_size = int(self.config.get_text_config().hidden_size)
        self.image_token = str(self.processor.image_token)
        self.prepare()
        part = load_part(model, self.config)
        self.digest = digest(self._facts(), part.state_dict())
        self.part: Any = part.to(device=device, dtype=dtype)
        self._mean = torch.tensor(self.images.image_mean, device=device)[:, None, None]
        self._std = torch.tensor(self.images.image_std, device=device)[:, None, None]
        self._before, self._after = self._in_template()
        self.prompt = lru_cache(maxsize=256)(self._prompt)  # type: ignore[method-assign]
        self._maps = lru_cache(maxsize=64)(self.maps)
        self.placeholders = self._placeholders()

    @classmethod
    def load(cls, model: str, *, device: torch.device, dtype: torch.dtype) -> SharedAdapter:
        """Load from a directory or a Hugging Face id; see `smoothgate.vision.load`."""
        return cls(model, device=device, dtype=dtype)

    def prepare(self) -> None:  # noqa: B027
        """Refuse settings that are not served; before anything is loaded.

        Raises:
            SmoothgateError: code `unsupported_model`.
        """

    def edge(self, name: str) -> int:
        """A length of the image processor's `size`, in pixels.

        Raises:
            SmoothgateError: code `unsupported_model`: it has none of that name.
        """
        length = dict(self.images.size).get(name)
        if not length:
            raise unsupported(f"the size of its image processor has no {name}")
        return int(length)

    @abstractmethod
    def maps(self, height: int, width: int) -> Sequence[LinearResize]:
        """What the processor makes of an image of this size, as linear maps, in the order of the canvas."""

    def assemble(self, pieces: Sequence[Tensor]) -> Tensor:
        """The canvas, of what the maps make."""
        (x,) = pieces
        return x

    @abstractmethod
    def native(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """The canvas, of what the processor made of one image without normalising it."""

    @abstractmethod
    def features(self, pixels: Tensor, layout: Layout) -> Tensor:
        """Normalised canvases (B, 3, H, W) -> visual tokens (B, T, D)."""

    def layout(self, height: int, width: int) -> Layout:
        """Of an image of this size."""
        return ()

    def full_size(self, height: int, width: int) -> tuple[int, int]:
        """As `VisionAdapter.full_size`."""
        return height, width

    def canvas(self, image: DecodedImage) -> Canvas:
        """As `VisionAdapter.canvas`. The norm of several maps together is at most the root of the sum of
        their squares.
        """
        maps = self._maps(image.height, image.width)
        x = self.assemble([torch.from_numpy(each.apply(image.pixels)) for each in maps])
        norms = [each.operator_norm for each in maps]
        norm = norms[0] if len(norms) == 1 else math.hypot(*norms) * (1 + 1e-12)
        return Canvas(x.contiguous(), norm, self.layout(image.height, image.width))

    def canvas_native(self, image: DecodedImage) -> Tensor:
        """As `VisionAdapter.canvas_native`."""
        return self.native(self.inputs(Image.fromarray(image.pixels))).contiguous()

    def inputs(self, image: Image.Image) -> Mapping[str, Tensor]:
        """What the processor makes of an image and its placeholder, without normalising it."""
        made: Mapping[str, Tensor] = self.processor(
            images=[image],
            text=[self.image_token],
            do_normalize=False,
            return_tensors="pt",
            add_special_tokens=False,
        )
        return made

    def tokens(self, x: Tensor, layout: Layout = ()) -> Tensor:
        """As `VisionAdapter.tokens`; normalises in the dtype of x, the rest is in `dtype`."""
        return self.features(((x - self._mean) / self._std).to(self.dtype), layout)

    def prompt(self, height: int, width: int) -> Prompt:
        """As `VisionAdapter.prompt`."""
        return self._prompt(height, width)

    def grid(self, inputs: Mapping[str, Tensor]) -> tuple[int, int, int] | None:
        """See `Prompt.grid`."""
        return None

    def _prompt(self, height: int, width: int) -> Prompt:
        inputs = self.inputs(Image.fromarray(np.zeros((height, width, 3), np.uint8)))
        runs: Iterable[str | int] = self._runs(inputs["input_ids"][0].tolist())
        if self.way == "prompt_embeds":  # which vLLM shows the template as text
            runs = (run for run in (self._before, *runs, self._after) if run)
        return Prompt(self.way, tuple(runs), self.grid(inputs))

    def _runs(self, ids: list[int]) -> Iterator[str | int]:
        tokenizer = self.processor.tokenizer
        image = tokenizer.convert_tokens_to_ids(self.visual_token())
        for is_image, run in groupby(ids, lambda each: each == image):
            listed = list(run)
            yield len(listed) if is_image else str(tokenizer.decode(listed, skip_special_tokens=False))

    def visual_token(self) -> str:
        """The token that the processor writes for each visual token."""
        return self.image_token

    def _in_template(self) -> tuple[str, str]:
        """What the chat template writes before and after an image, that it does not write around a text."""
        template = self.processor.chat_template or self.processor.tokenizer.chat_template
        if not template:
            return "", ""
        mark = "\ue000"

        def around(part: dict[str, str], at: str) -> tuple[str, str]:
            content = [part, {"type": "text", "text": "Q"}]
            messages = [{"role": "user", "content": content}]
            text: str = self.processor.apply_chat_template(messages, add_generation_prompt=True)
            before, _, after = text.partition(at)
            return before, after

        (before, after), (before_text, after_text) = (
            around({"type": "image"}, self.image_token),
            around({"type": "text", "text": mark}, mark),
        )
        own_before = before.removeprefix(before_text) if before.startswith(before_text) else ""
        own_after = after.removesuffix(after_text) if after.endswith(after_text) else ""
        return own_before, own_after

    def _placeholders(self) -> tuple[str, ...]:
        tokenizer = self.processor.tokenizer
        runs = self.prompt(64, 64).runs + self.prompt(900, 1600).runs
        known = tokenizer.get_added_vocab()
        texts = "".join([self._before, self._after, *(run for run in runs if isinstance(run, str))])
        found = {token for token in known if len(token) > 1 and token in texts}
        found |= {
            self.image_token,
            self.visual_token(),
            str(getattr(self.processor, "video_token", "") or ""),
        }
        found |= {_PROMPT_EMBEDS} if self.way == "prompt_embeds" else set()
        return tuple(sorted(found - {""}))

    def _facts(self) -> dict[str, Any]:
        config = {
            key: value
            for key, value in self.config.to_dict().items()
            if key not in {*_NOT_IN_DIGEST, "text_config"}
        }
        config["vision_config"] = {
            key: value for key, value in config["vision_config"].items() if key not in _NOT_IN_DIGEST
        }
        return {"config": config, "preprocessing": self.images.to_dict()}

"""Adapters of families whose own processor decides about geometry and prompt."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from itertools import groupby
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import AutoProcessor

from smoothgate.pictures.images import DecodedImage
from smoothgate.vision.adapter import Prompt
from smoothgate.vision.base_adapter import BaseAdapter
from smoothgate.vision.preprocessing import require_rescaled, unsupported

# The token by which vLLM marks the places of `prompt_embeds`.
_PROMPT_EMBEDS = "<prompt_embeds>"
# Facts about the files that do not determine what is computed.
_NOT_IN_DIGEST = frozenset({"transformers_version", "dtype", "torch_dtype", "architectures", "_name_or_path"})
# A character that no chat template writes.
_MARK = "\ue000"


class ProcessorAdapter(BaseAdapter):
    """A `BaseAdapter` that runs the checkpoint's processor to learn the prompt and the native canvas.

    A subclass also says how the processor's output becomes a canvas (`canvas_from_outputs`).
    """

    def __init__(
        self,
        model: str,
        *,
        device: torch.device,
        dtype: torch.dtype,
        max_canvas_pixels: int | None = None,
    ) -> None:
        self.processor = AutoProcessor.from_pretrained(model)
        self.image_token = str(self.processor.image_token)
        require_rescaled(self.processor.image_processor)
        super().__init__(
            model,
            self.processor.image_processor,
            device=device,
            dtype=dtype,
            max_canvas_pixels=max_canvas_pixels,
        )
        self._before, self._after = self._template_around_image()
        self._cached_prompt = lru_cache(maxsize=256)(self._make_prompt)
        self.placeholders = self.find_placeholders()

    def processor_size(self, name: str) -> int:
        """An entry of the image processor's `size`, in pixels.

        Raises:
            SmoothgateError: code `unsupported_model`: there is no such entry.
        """
        length = dict(self.image_processor.size).get(name)
        if not length:
            raise unsupported(f"the size of its image processor has no {name}")
        return int(length)

    def set_processor_size(self, name: str, pixels: int) -> None:
        """Change an entry of the image processor's `size`."""
        size = self.image_processor.size
        self.image_processor.size = type(size)(**{**dict(size), name: pixels})

    @abstractmethod
    def canvas_from_outputs(self, outputs: Mapping[str, Tensor]) -> Tensor:
        """The canvas from what the processor makes of one image without normalising it."""

    def canvas_native(self, image: DecodedImage) -> Tensor:
        """As `VisionAdapter.canvas_native`."""
        return self.canvas_from_outputs(self.process(Image.fromarray(image.pixels))).contiguous()

    def process(self, image: Image.Image) -> Mapping[str, Tensor]:
        """What the processor makes of an image and its placeholder, without normalising the pixels."""
        outputs: Mapping[str, Tensor] = self.processor(
            images=[image],
            text=[self.image_token],
            do_normalize=False,
            return_tensors="pt",
            add_special_tokens=False,
        )
        return outputs

    def prompt(self, height: int, width: int) -> Prompt:
        """As `VisionAdapter.prompt`."""
        return self._cached_prompt(height, width)

    def grid(self, outputs: Mapping[str, Tensor]) -> tuple[int, int, int] | None:
        """`Prompt.grid` from what the processor makes of an image."""
        return None

    def visual_token(self) -> str:
        """The token that the processor writes for each visual token."""
        return self.image_token

    def find_placeholders(self) -> tuple[str, ...]:
        """Texts that the tokenizer reads as part of an image of any size."""
        runs = self.prompt(64, 64).runs + self.prompt(900, 1600).runs
        added = self.processor.tokenizer.get_added_vocab()
        texts = "".join([self._before, self._after, *(run for run in runs if isinstance(run, str))])
        placeholders = {token for token in added if len(token) > 1 and token in texts}
        placeholders |= {
            self.image_token,
            self.visual_token(),
            str(getattr(self.processor, "video_token", "") or ""),
        }
        placeholders |= {_PROMPT_EMBEDS} if self.part_type == "prompt_embeds" else set()
        return tuple(sorted(placeholders - {""}))

    def digest_facts(self) -> dict[str, Any]:
        """As `BaseAdapter.digest_facts`: all settings but those of the language model."""
        config = {
            key: value
            for key, value in self.config.to_dict().items()
            if key not in {*_NOT_IN_DIGEST, "text_config"}
        }
        config["vision_config"] = {
            key: value for key, value in config["vision_config"].items() if key not in _NOT_IN_DIGEST
        }
        return {"config": config, "preprocessing": self.image_processor.to_dict()}

    def _make_prompt(self, height: int, width: int) -> Prompt:
        outputs = self.process(Image.fromarray(np.zeros((height, width, 3), np.uint8)))
        runs: Iterable[str | int] = self._runs(outputs["input_ids"][0].tolist())
        if self.part_type == "prompt_embeds":  # vLLM gives these to the chat template as text
            runs = (run for run in (self._before, *runs, self._after) if run)
        return Prompt(self.part_type, tuple(runs), self.grid(outputs))

    def _runs(self, ids: list[int]) -> Iterator[str | int]:
        tokenizer = self.processor.tokenizer
        visual_token = tokenizer.convert_tokens_to_ids(self.visual_token())
        for is_visual, run in groupby(ids, lambda token: token == visual_token):
            tokens = list(run)
            yield len(tokens) if is_visual else str(tokenizer.decode(tokens, skip_special_tokens=False))

    def _template_around_image(self) -> tuple[str, str]:
        """What the chat template writes before and after an image, but not around a text."""
        template = self.processor.chat_template or self.processor.tokenizer.chat_template
        if not template:
            return "", ""
        before, after = self._template_around({"type": "image"}, self.image_token)
        before_text, after_text = self._template_around({"type": "text", "text": _MARK}, _MARK)
        return (
            before.removeprefix(before_text) if before.startswith(before_text) else "",
            after.removesuffix(after_text) if after.endswith(after_text) else "",
        )

    def _template_around(self, part: dict[str, str], written: str) -> tuple[str, str]:
        """What the chat template writes before and after a content part that it writes as `written`."""
        messages = [{"role": "user", "content": [part, {"type": "text", "text": "Q"}]}]
        text: str = self.processor.apply_chat_template(messages, add_generation_prompt=True)
        before, _, after = text.partition(written)
        return before, after

"""The language model of a checkpoint as a fixed reader of visual tokens, for every family.

The whole model runs as transformers has it: prompt, positions and masks are its own. A hook puts given
visual tokens in the places where the model would put those of its own vision part, which does not run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from transformers import AutoModelForImageTextToText, AutoProcessor, GenerationConfig

from smoothgate.errors import SmoothgateError
from smoothgate.vision import VisionAdapter

# What the language model needs of the processor's outputs. Those with an entry for each token of the prompt
# grow with the answer.
_NEEDED = ("input_ids", "mm_token_type_ids", "image_grid_thw")
_PER_TOKEN = ("input_ids", "mm_token_type_ids")


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """The greedy answers to a question about B pictures, and how likely each next token was.

    Attributes:
        question: the question.
        shape: (3, H, W) of the canvases.
        tokens: (B, A) the answers, padded after their ends.
        asked: (B, A) which tokens belong to an answer, its end included.
        log_probabilities: (B, A, V) of the next token at each place.
    """

    question: str
    shape: tuple[int, ...]
    tokens: Tensor
    asked: Tensor
    log_probabilities: Tensor

    def of(self, rows: Tensor) -> Answers:
        """Those of some pictures."""
        return Answers(
            self.question,
            self.shape,
            self.tokens[rows],
            self.asked[rows],
            self.log_probabilities[rows],
        )

    def twice(self) -> Answers:
        """All of them, and once more."""
        return self.of(torch.arange(len(self.tokens), device=self.tokens.device).repeat(2))


class FrozenLanguageModel:
    """Reads visual tokens. None of its weights gets a gradient.

    Args:
        model: a directory or a Hugging Face id.
        adapter: of the same checkpoint. The model runs on its device, on CUDA in bfloat16.
        answer_tokens: most tokens of an answer.

    Raises:
        SmoothgateError: code `unsupported_model`: the checkpoint has no chat template.
    """

    def __init__(self, model: str, adapter: VisionAdapter, answer_tokens: int = 24) -> None:
        self.processor: Any = AutoProcessor.from_pretrained(model)
        if not (self.processor.chat_template or self.processor.tokenizer.chat_template):
            raise SmoothgateError(
                "The checkpoint has no chat template, so no question can be asked.", code="unsupported_model"
            )
        dtype = torch.bfloat16 if adapter.device.type == "cuda" else torch.float32
        whole: Any = AutoModelForImageTextToText.from_pretrained(model, dtype=dtype)
        self.model = whole.to(adapter.device).eval().requires_grad_(False)
        self._language = getattr(self.model.model, "language_model", None) or self.model.model.text_model
        self._adapter = adapter
        self._answer_tokens = answer_tokens
        ends = self.model.generation_config.eos_token_id
        self._ends = torch.tensor(
            [] if ends is None else ends, dtype=torch.long, device=adapter.device
        ).flatten()
        self._prompt = lru_cache(maxsize=256)(self._make_prompt)

    @torch.no_grad()
    def answer(self, question: str, shape: tuple[int, ...], tokens: Tensor) -> Answers:
        """Greedy answers to a question about B pictures.

        Args:
            question: the question.
            shape: (3, H, W) of the canvases.
            tokens: (B, T, D) visual tokens of the pictures.
        """
        prompt = self._repeated(question, shape, tokens)
        greedy = GenerationConfig(
            max_new_tokens=self._answer_tokens,
            do_sample=False,
            eos_token_id=self._ends.tolist() or None,
            pad_token_id=int(self._ends[0]) if len(self._ends) else 0,
        )
        width = prompt["input_ids"].shape[1]
        with self._given(prompt["input_ids"], tokens):
            whole = self.model.generate(
                **prompt, attention_mask=torch.ones_like(prompt["input_ids"]), generation_config=greedy
            )
        found = whole[:, width:]
        ended = torch.isin(found, self._ends).cumsum(1)
        asked = (ended - torch.isin(found, self._ends).long()) == 0
        spoken = self._log_probabilities(question, shape, found, tokens)
        return Answers(question, shape, found, asked, spoken)

    def log_probabilities(self, answers: Answers, tokens: Tensor) -> Tensor:
        """Log-probabilities (B, A, V) of the next tokens while the same answers are given.

        Args:
            answers: to B pictures.
            tokens: (B, T, D) other visual tokens of the pictures. The result is differentiable in them.
        """
        return self._log_probabilities(answers.question, answers.shape, answers.tokens, tokens)

    def _log_probabilities(
        self, question: str, shape: tuple[int, ...], answers: Tensor, tokens: Tensor
    ) -> Tensor:
        inputs = self._repeated(question, shape, tokens)
        prompt = inputs["input_ids"]
        inputs["input_ids"] = torch.cat([prompt, answers], 1)
        if "mm_token_type_ids" in inputs:
            text = torch.zeros_like(answers)
            inputs["mm_token_type_ids"] = torch.cat([inputs["mm_token_type_ids"], text], 1)
        with self._given(prompt, tokens):
            logits: Tensor = self.model(**inputs, use_cache=False, logits_to_keep=answers.shape[1] + 1).logits
        return logits[:, :-1].float().log_softmax(-1)

    def _repeated(self, question: str, shape: tuple[int, ...], tokens: Tensor) -> dict[str, Tensor]:
        """The prompt of one picture, once for each row of visual tokens."""
        prompt = self._prompt(question, shape, tokens.shape[1])
        return {name: value.repeat(len(tokens), *[1] * (value.ndim - 1)) for name, value in prompt.items()}

    def _make_prompt(self, question: str, shape: tuple[int, ...], count: int) -> dict[str, Tensor]:
        size = picture_size(self._adapter, shape, count)
        content = [{"type": "image"}, {"type": "text", "text": question}]
        text = self.processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )
        inputs = self.processor(
            images=[Image.fromarray(np.zeros((*size, 3), np.uint8))],
            text=[text],
            return_tensors="pt",
            add_special_tokens=False,
        )
        return {name: inputs[name].to(self._adapter.device) for name in _NEEDED if name in inputs}

    @contextmanager
    def _given(self, ids: Tensor, tokens: Tensor) -> Iterator[None]:
        """Within it, the places of images in prompts (B, L) hold these visual tokens (B, T, D).

        An answer behind the prompt may hold the token of an image too, which is then a token like others.
        """
        in_prompt = ids == self.model.config.image_token_id

        def put(module: object, args: object, named: dict[str, Any]) -> tuple[object, dict[str, Any]]:
            embeddings = named["inputs_embeds"]
            further = embeddings.shape[1] - in_prompt.shape[1]
            if further < 0:
                return args, named  # a further token of the answer, after the prompt
            places = F.pad(in_prompt, (0, further))
            # Some families add features to inner layers. They follow along D (`QwenAdapter`).
            first, *inner = torch.split(tokens.to(embeddings.dtype), embeddings.shape[-1], -1)
            named["inputs_embeds"] = embeddings.masked_scatter(places[..., None], first)
            if inner:
                named["visual_pos_masks"] = places
                named["deepstack_visual_embeds"] = [each.flatten(0, 1) for each in inner]
            return args, named

        hook = self._language.register_forward_pre_hook(put, with_kwargs=True)
        try:
            yield
        finally:
            hook.remove()


def picture_size(adapter: VisionAdapter, shape: Sequence[int], tokens: int) -> tuple[int, int]:
    """(height, width) of a picture that fills a canvas (3, H, W) and has that many visual tokens.

    A canvas says how many tiles it has, not how they lie in the picture. The first way that fits is taken.

    Raises:
        SmoothgateError: code `unsupported_model`: no picture has such a canvas.
    """
    _, height, width = shape
    sizes = [(height, width)]
    side = adapter.tile_height
    if side is not None:
        most = height // side
        sizes = [
            (rows * side, columns * width)
            for rows in range(1, most + 1)
            for columns in range(1, most + 1)
            if rows * columns in (most - 1, most)
        ]
    for size in sizes:
        fits = adapter.canvas_values(*size) == 3 * height * width
        if fits and adapter.prompt(*size).tokens == tokens:
            return size
    raise SmoothgateError(f"No picture has a canvas of {height} x {width} pixels.", code="unsupported_model")

"""Asking a bundled model, without the service: greedy answers from visual tokens."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from smoothgate.psm.unit_encoder import UnitEncoder
from smoothgate.sampling.draw import draw, generator_noise
from smoothgate.sampling.selection import select
from smoothgate.vision import DecodedImage
from smoothgate_lab.chat_models.chats import Message, Question, user_message

#: Chats that are answered together.
CHATS = 50

Encode = Callable[[list[Image.Image]], Tensor]


class Answerer:
    """Greedy answers of a bundled model from visual tokens, computed by Hugging Face transformers."""

    def __init__(self, folder: Path) -> None:
        self.processor: Any = LlavaProcessor.from_pretrained(folder)
        self.processor.tokenizer.padding_side = "left"
        self.model: Any = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
        self._placeholders = "<image>" * self.model.config.image_seq_length

    @torch.no_grad()
    def __call__(self, chats: list[tuple[list[Message], list[Tensor]]]) -> list[str]:
        """One answer per chat. Each chat comes with the tokens (T, D) of its pictures, in order."""
        texts = [
            self.processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
            for messages, _ in chats
        ]
        texts = [text.replace("<image>", self._placeholders) for text in texts]
        inputs = self.processor.tokenizer(texts, padding=True, return_tensors="pt")
        embeds: Tensor = self.model.get_input_embeddings()(inputs.input_ids)
        tokens = [each for _, pictures in chats for each in pictures]
        if tokens:
            places = (inputs.input_ids == self.model.config.image_token_index)[..., None]
            embeds = embeds.masked_scatter(places, torch.cat(tokens))
        out = self.model.generate(
            inputs_embeds=embeds, attention_mask=inputs.attention_mask, max_new_tokens=40, do_sample=False
        )
        decoded: list[str] = self.processor.batch_decode(out, skip_special_tokens=True)
        return decoded

    def cross_entropy(self, question: str, wanted: list[str], tokens: Tensor) -> Tensor:
        """Negative log-likelihood (B,) of answers to one question about B pictures.

        Args:
            question: the question.
            wanted: B answers.
            tokens: (B, T, D) visual tokens of the pictures. The result is differentiable in them.
        """
        told, tails = self._told(question, wanted, tokens)
        each = F.cross_entropy(told.mT, tails.input_ids, reduction="none")
        summed: Tensor = (each * tails.attention_mask).sum(1)
        return summed

    def choice_logits(self, question: str, choices: list[str], tokens: Tensor) -> Tensor:
        """The logits (B, C) of C answers that differ in one token, where that token is due.

        Args:
            question: the question.
            choices: C answers.
            tokens: (B, T, D) visual tokens of the pictures. The result is differentiable in them.

        Raises:
            ValueError: the answers differ in more than one token, or in none.
        """
        ids = torch.tensor(self.processor.tokenizer(choices).input_ids)
        places = (ids != ids[0]).any(0).nonzero()[:, 0].tolist()
        if len(places) != 1:
            raise ValueError(f"the answers differ in {len(places)} tokens")
        told, _ = self._told(question, [choices[0]] * len(tokens), tokens)
        logits: Tensor = told[:, places[0]][:, ids[:, places[0]]]
        return logits

    def _told(self, question: str, wanted: list[str], tokens: Tensor) -> tuple[Tensor, Any]:
        """The logits (B, L, V) where the tokens of answers are due, and those tokens."""
        text = self.processor.apply_chat_template(
            [user_message(1, question)], add_generation_prompt=True, tokenize=False
        )
        tokenizer = self.processor.tokenizer
        prompt = tokenizer(text.replace("<image>", self._placeholders), return_tensors="pt").input_ids
        whole = [answer + tokenizer.eos_token for answer in wanted]
        tails = tokenizer(whole, padding=True, padding_side="right", return_tensors="pt")
        ids = torch.cat([prompt.expand(len(wanted), -1), tails.input_ids], 1)
        seen = torch.cat([torch.ones_like(ids[:, : prompt.shape[1]]), tails.attention_mask], 1)
        embeds: Tensor = self.model.get_input_embeddings()(ids)
        places = (ids == self.model.config.image_token_index)[..., None]
        embeds = embeds.masked_scatter(places, tokens.flatten(0, 1))
        logits = self.model(inputs_embeds=embeds, attention_mask=seen).logits
        return logits[:, prompt.shape[1] - 1 : -1], tails

    @torch.no_grad()
    def tokens(self, pictures: list[Image.Image]) -> Tensor:
        """Visual tokens (N, T, D) of the undefended model."""
        pixels = self.processor.image_processor(pictures, return_tensors="pt")["pixel_values"]
        features = self.model.model.get_image_features(pixel_values=pixels).pooler_output
        return torch.stack(list(features))


def smoothed_tokens(encoder: UnitEncoder, sigma: float, n: int, seed: int) -> Encode:
    """The visual tokens that the service serves: mu + rho t, with t from n noisy copies."""
    noise = generator_noise(torch.Generator().manual_seed(seed))

    @torch.no_grad()
    def encode(pictures: list[Image.Image]) -> Tensor:
        served = []
        for picture in pictures:
            x = encoder.adapter.canvas(DecodedImage(np.asarray(picture), "PNG", "")).x
            t, _ = select(draw(encoder.units, x, sigma, noise, n, batch=n))
            served.append(encoder.served_tokens(t))
        return torch.stack(served)

    return encode


def answers(answerer: Answerer, question: str, tokens: Tensor) -> list[str]:
    """The answers to one question about each picture, from visual tokens (N, T, D)."""
    chats = [([user_message(1, question)], [each]) for each in tokens]
    return [a for first in range(0, len(chats), CHATS) for a in answerer(chats[first : first + CHATS])]


def ask(answerer: Answerer, question: Question, tokens: Tensor, facts: list[Any]) -> float:
    """Share of right answers to one question in its first phrasing, from visual tokens (N, T, D)."""
    given = answers(answerer, question.phrasings[0], tokens)
    return sum(a == question.answer(f) for a, f in zip(given, facts, strict=True)) / len(facts)

"""Exact-match accuracy of the demo model on scenes of held-out digits, per kind of question."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.progress import track
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from smoothgate.pictures.images import to_picture
from smoothgate.psm.unit_encoder import UnitEncoder
from smoothgate.sampling.draw import draw, generator_noise
from smoothgate.sampling.selection import select
from smoothgate.vision import DecodedImage
from smoothgate_lab.demo import scenes
from smoothgate_lab.demo.conversation import ONE_PICTURE, TWO_PICTURES, Facts, Message, Question, facts_of
from smoothgate_lab.demo.scenes import Digits, Split, load_digits
from smoothgate_lab.demo.tower import TOKENS

_BATCH = 50

Encode = Callable[[list[Image.Image]], Tensor]


@dataclass(frozen=True, slots=True)
class Scene:
    """A picture as a client would send it (a PNG's pixels) and what is true of it."""

    picture: Image.Image
    facts: Facts


def labelled_scenes(split: Split, n: int, seed: int) -> tuple[list[Scene], list[Scene]]:
    """n scenes and their twins with another digit. All digits of a split are used equally often."""
    digits = load_digits(split)
    gen = torch.Generator().manual_seed(seed)
    size = len(digits.labels)
    chosen = torch.cat([torch.randperm(size, generator=gen) for _ in range(-(-n // size))])[:n]
    layouts = scenes.sample_layouts(n, gen)
    both = []
    for which in (chosen, scenes.twin_indices(digits, chosen, gen)):
        images, _ = scenes.draw(digits.bitmaps[which], layouts)
        facts = facts_of(digits.labels[which], layouts)
        both.append([Scene(to_picture(image), fact) for image, fact in zip(images, facts, strict=True)])
    return both[0], both[1]


def plain_pictures(n: int, seed: int) -> list[tuple[Image.Image, int]]:
    """n plain pictures of one held-out digit each.

    They are light on dark or dark on light, with 28 to 600 pixels and aspect ratios of 1:2 to 2:1.

    Drawn with Pillow, not with the scenes' own code: a digit keeps its shape and stands anywhere on the
    picture.
    """
    digits: Digits = load_digits("held-out")
    rng = random.Random(seed)
    out = []
    for index in rng.sample(range(len(digits.labels)), n):
        short = round(28 * (600 / 28) ** rng.random())
        long = round(short * rng.uniform(1, 2))
        size = (short, long) if rng.random() < 0.5 else (long, short)
        box = round(short * rng.uniform(0.75, 1.0))
        ink = Image.fromarray((digits.bitmaps[index] * 255).byte().numpy()).resize(
            (box, box), Image.Resampling.BICUBIC
        )
        mask = Image.new("L", size, 0)
        mask.paste(ink, (rng.randint(0, size[0] - box), rng.randint(0, size[1] - box)))
        dark, light = rng.randint(0, 60), rng.randint(180, 255)
        front, back = (dark, light) if rng.random() < 0.5 else (light, dark)
        picture = Image.composite(Image.new("L", size, front), Image.new("L", size, back), mask)
        out.append((picture.convert("RGB"), int(digits.labels[index])))
    return out


class Answerer:
    """Greedy answers of the demo model from visual tokens, computed by Hugging Face transformers."""

    def __init__(self, folder: Path) -> None:
        self.processor: Any = LlavaProcessor.from_pretrained(folder)
        self.processor.tokenizer.padding_side = "left"
        self.model: Any = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()

    @torch.no_grad()
    def __call__(self, chats: list[tuple[list[Message], list[Tensor]]]) -> list[str]:
        """One answer per chat. Each chat comes with the tokens (36, 160) of its pictures, in order."""
        texts = [
            self.processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
            for messages, _ in chats
        ]
        texts = [text.replace("<image>", "<image>" * TOKENS) for text in texts]
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
        text = self.processor.apply_chat_template(
            asked(1, question), add_generation_prompt=True, tokenize=False
        )
        tokenizer = self.processor.tokenizer
        prompt = tokenizer(text.replace("<image>", "<image>" * TOKENS), return_tensors="pt").input_ids
        whole = [answer + tokenizer.eos_token for answer in wanted]
        tails = tokenizer(whole, padding=True, padding_side="right", return_tensors="pt")
        ids = torch.cat([prompt.expand(len(wanted), -1), tails.input_ids], 1)
        seen = torch.cat([torch.ones_like(ids[:, : prompt.shape[1]]), tails.attention_mask], 1)
        embeds: Tensor = self.model.get_input_embeddings()(ids)
        places = (ids == self.model.config.image_token_index)[..., None]
        embeds = embeds.masked_scatter(places, tokens.flatten(0, 1))
        logits = self.model(inputs_embeds=embeds, attention_mask=seen).logits
        told = logits[:, prompt.shape[1] - 1 : -1]
        each = F.cross_entropy(told.mT, tails.input_ids, reduction="none")
        summed: Tensor = (each * tails.attention_mask).sum(1)
        return summed

    @torch.no_grad()
    def tokens(self, pictures: list[Image.Image]) -> Tensor:
        """Visual tokens (N, 36, 160) of the undefended model."""
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


def asked(images: int, text: str) -> list[Message]:
    """A chat of one message: pictures, then a text."""
    return [{"role": "user", "content": [{"type": "image"}] * images + [{"type": "text", "text": text}]}]


def answers(answerer: Answerer, question: str, tokens: Tensor) -> list[str]:
    """The answers to one question about each picture, from visual tokens (N, T, D)."""
    chats = [(asked(1, question), [each]) for each in tokens]
    return [a for first in range(0, len(chats), _BATCH) for a in answerer(chats[first : first + _BATCH])]


def ask(answerer: Answerer, question: Question, tokens: Tensor, facts: list[Facts]) -> float:
    """Share of right answers to one question in its first phrasing, from visual tokens (N, T, D)."""
    given = answers(answerer, question.phrasings[0], tokens)
    return sum(a == question.answer(f) for a, f in zip(given, facts, strict=True)) / len(facts)


@dataclass(slots=True)
class Score:
    """The number of right answers to one kind of question."""

    name: str
    right: int = 0
    total: int = 0

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return self.right / self.total


def run(
    answerer: Answerer, n: int, seed: int, *, encode: Encode | None = None, every_phrasing: bool = False
) -> dict[str, Any]:
    """Measure a checkpoint.

    Args:
        answerer: the model.
        n: number of held-out scenes per kind of question.
        seed: seed of scenes and phrasings.
        encode: pictures -> visual tokens. By default the undefended model's.
        every_phrasing: whether to ask in a random phrasing instead of the first.

    Returns:
        `accuracy` (kind -> share), `n`, `seed`, `twin_cosine`, `chance_cosine_mean`, `chance_cosine_p95`,
        `errors` (kind -> up to five wrong answers with the right answers).
    """
    rng = random.Random(seed)
    first, twins = labelled_scenes("held-out", n, seed)
    second = first[1:] + first[:1]
    plain = plain_pictures(min(n, 1000), seed)

    def cases() -> Iterator[tuple[str, list[Message], list[Image.Image], str]]:
        def phrase(question: Question) -> str:
            return rng.choice(question.phrasings) if every_phrasing else question.phrasings[0]

        for question in ONE_PICTURE:
            for scene in first:
                yield question.name, asked(1, phrase(question)), [scene.picture], question.answer(scene.facts)
        for question in TWO_PICTURES:
            for a, b in zip(first, second, strict=True):
                yield (
                    question.name,
                    asked(2, phrase(question)),
                    [a.picture, b.picture],
                    question.answer(a.facts, b.facts),
                )
        for scene in first:
            q1, q2 = rng.sample(ONE_PICTURE, 2)
            chat = [
                *asked(1, phrase(q1)),
                {"role": "assistant", "content": q1.answer(scene.facts)},
                {"role": "user", "content": rng.choice(q2.follow_ups)},
            ]
            yield "follow-up", chat, [scene.picture], q2.answer(scene.facts)
        for picture, label in plain:
            yield "plain picture", asked(1, ONE_PICTURE[0].phrasings[0]), [picture], f"The digit is {label}."

    seen = [scene.picture for scene in first] + [picture for picture, _ in plain]
    encoded = [
        (encode or answerer.tokens)(seen[i : i + 100]) for i in track(range(0, len(seen), 100), "Encoding")
    ]
    tokens_of = dict(zip(map(id, seen), torch.cat(encoded), strict=True))

    todo = list(cases())
    scores: dict[str, Score] = {}
    errors: dict[str, list[str]] = {}
    for start in track(range(0, len(todo), _BATCH), description="Asking"):
        batch = todo[start : start + _BATCH]
        replies = answerer([(m, [tokens_of[id(p)] for p in pictures]) for _, m, pictures, _ in batch])
        for (name, _, _, wanted), given in zip(batch, replies, strict=True):
            score = scores.setdefault(name, Score(name))
            score.total += 1
            score.right += given == wanted
            if given != wanted and len(errors.setdefault(name, [])) < 5:
                errors[name].append(f"{given!r} for {wanted!r}")

    tokens = torch.cat([answerer.tokens([s.picture for s in first[i : i + 100]]) for i in range(0, n, 100)])
    other = torch.cat([answerer.tokens([s.picture for s in twins[i : i + 100]]) for i in range(0, n, 100)])
    mu = torch.cat([tokens, other]).mean(0)
    unit, twin = (F.normalize((t - mu).flatten(1), dim=1) for t in (tokens, other))
    strangers = (unit * unit.roll(1, 0)).sum(1)
    return {
        "n": n,
        "seed": seed,
        "accuracy": {name: score.accuracy for name, score in scores.items()},
        "asked": dict(Counter(name for name, *_ in todo)),
        "twin_cosine": float((unit * twin).sum(1).mean()),
        "chance_cosine_mean": float(strangers.mean()),
        "chance_cosine_p95": float(strangers.quantile(0.95)),
        "errors": errors,
    }

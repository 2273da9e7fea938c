"""Exact-match accuracy of the demo model on scenes of held-out digits, per kind of question."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from rich.progress import track
from torch.nn import functional as F  # noqa: N812

from smoothgate.pictures.images import to_picture
from smoothgate_lab.chat_models.answerer import Answerer, Encode
from smoothgate_lab.chat_models.chats import Message, Question, user_message
from smoothgate_lab.chat_models.exact_match import Case, exact_match
from smoothgate_lab.demo import scenes
from smoothgate_lab.demo.conversation import ONE_PICTURE, TWO_PICTURES, Facts, facts_of
from smoothgate_lab.demo.scenes import Digits, Split, load_digits


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
        `n`, `seed`, `twin_cosine`, `chance_cosine_mean`, `chance_cosine_p95`, and what `exact_match` returns.
    """
    rng = random.Random(seed)
    first, twins = labelled_scenes("held-out", n, seed)
    second = first[1:] + first[:1]
    plain = plain_pictures(min(n, 1000), seed)

    seen = [scene.picture for scene in first] + [picture for picture, _ in plain]
    encoded = [
        (encode or answerer.tokens)(seen[i : i + 100]) for i in track(range(0, len(seen), 100), "Encoding")
    ]
    tokens_of = dict(zip(map(id, seen), torch.cat(encoded), strict=True))

    def cases() -> Iterator[Case]:
        def case(name: str, chat: list[Message], pictures: list[Image.Image], wanted: str) -> Case:
            return Case(name, chat, [tokens_of[id(picture)] for picture in pictures], wanted)

        def phrase(question: Question) -> str:
            return rng.choice(question.phrasings) if every_phrasing else question.phrasings[0]

        for question in ONE_PICTURE:
            for scene in first:
                yield case(
                    question.name,
                    [user_message(1, phrase(question))],
                    [scene.picture],
                    question.answer(scene.facts),
                )
        for question in TWO_PICTURES:
            for a, b in zip(first, second, strict=True):
                yield case(
                    question.name,
                    [user_message(2, phrase(question))],
                    [a.picture, b.picture],
                    question.answer(a.facts, b.facts),
                )
        for scene in first:
            q1, q2 = rng.sample(ONE_PICTURE, 2)
            chat = [
                user_message(1, phrase(q1)),
                {"role": "assistant", "content": q1.answer(scene.facts)},
                {"role": "user", "content": rng.choice(q2.follow_ups)},
            ]
            yield case("follow-up", chat, [scene.picture], q2.answer(scene.facts))
        for picture, label in plain:
            yield case(
                "plain picture",
                [user_message(1, ONE_PICTURE[0].phrasings[0])],
                [picture],
                f"The digit is {label}.",
            )

    figures = exact_match(answerer, list(cases()))
    tokens = torch.cat([answerer.tokens([s.picture for s in first[i : i + 100]]) for i in range(0, n, 100)])
    other = torch.cat([answerer.tokens([s.picture for s in twins[i : i + 100]]) for i in range(0, n, 100)])
    mu = torch.cat([tokens, other]).mean(0)
    unit, twin = (F.normalize((t - mu).flatten(1), dim=1) for t in (tokens, other))
    strangers = (unit * unit.roll(1, 0)).sum(1)
    return {
        "n": n,
        "seed": seed,
        **figures,
        "twin_cosine": float((unit * twin).sum(1).mean()),
        "chance_cosine_mean": float(strangers.mean()),
        "chance_cosine_p95": float(strangers.quantile(0.95)),
    }

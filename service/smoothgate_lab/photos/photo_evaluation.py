"""Exact-match accuracy of the photographs model on test pictures, per kind of question."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import torch
from rich.progress import track

from smoothgate.pictures.images import to_picture
from smoothgate_lab.chat_models.answerer import Answerer, Encode
from smoothgate_lab.chat_models.chats import Question, user_message
from smoothgate_lab.chat_models.exact_match import Case, exact_match
from smoothgate_lab.photos.photo_conversation import BOTH, is_a, one_photo, which
from smoothgate_lab.photos.photographs import Photographs

_ENCODED = 100


def photo_accuracy(
    answerer: Answerer, photographs: Photographs, seed: int, *, encode: Encode | None = None
) -> dict[str, Any]:
    """Ask every kind of question about photographs, in its first phrasing.

    Half of the questions that are answered with yes or no are about the class that is shown, the others
    about another. A question about two pictures asks for the class of the first, of the second or another,
    a third each.

    Args:
        answerer: the model.
        photographs: test pictures.
        seed: seed of the classes that are asked about, and of the pairs.
        encode: pictures -> visual tokens. By default the undefended model's.

    Returns:
        `n`, `seed`, and what `exact_match` returns.
    """
    rng = random.Random(seed)
    pictures = [to_picture(canvas) for canvas in photographs.canvases]
    starts = range(0, len(pictures), _ENCODED)
    encoded = [(encode or answerer.tokens)(pictures[i : i + _ENCODED]) for i in track(starts, "Encoding")]
    tokens = torch.cat(encoded)
    nouns, known = photographs.nouns, photographs.photo_set.nouns

    def case(question: Question, *shown: int) -> Case:
        chat = [user_message(len(shown), question.phrasings[0])]
        wanted = question.answer(*(nouns[i] for i in shown))
        return Case(question.name, chat, [tokens[i] for i in shown], wanted)

    def other(*shown: str) -> str:
        return rng.choice([noun for noun in known if noun not in shown])

    def cases() -> Iterator[Case]:
        for i, noun in enumerate(nouns):
            for question in one_photo(photographs.photo_set):
                yield case(question, i)
            yield case(is_a(noun if rng.random() < 0.5 else other(noun)), i)
            j = rng.randrange(len(nouns))
            yield case(BOTH, i, j)
            asked = rng.choice((noun, nouns[j], other(noun, nouns[j])))
            yield case(which(asked), i, j)

    return {"n": len(nouns), "seed": seed, **exact_match(answerer, list(cases()))}

"""The conversations that the demo's language model is trained on, and its loss on them."""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from smoothgate_lab.chat_models.chats import Message, conversation
from smoothgate_lab.chat_models.clip_encoder import ClipEncoder
from smoothgate_lab.chat_models.language_side import ChatEncoder, Served, answers_loss
from smoothgate_lab.demo.conversation import DIGITS, facts_of
from smoothgate_lab.demo.scenes import Digits
from smoothgate_lab.demo.tower import training_batch

_CONVERSATIONS = 48


@dataclass(frozen=True, slots=True)
class Mix:
    """The mix of conversations of a stage.

    Attributes:
        counts: weights of conversations about no, one and two pictures.
        repeated: share of those about two pictures that show the same picture twice.
        equal: share of the others about two pictures that show the same digit twice.
    """

    counts: tuple[float, float, float]
    repeated: float
    equal: float


@torch.no_grad()
def measure_served(encoder: ClipEncoder, digits: Digits, gen: torch.Generator, batches: int = 20) -> Served:
    """Measure the served form on new training scenes."""
    return Served.measure(
        encoder(batch.images) for _ in range(batches) for batch in training_batch(digits, 64, gen)
    )


def language_loss(
    model: LlamaForCausalLM,
    encoder: ClipEncoder,
    served: Served,
    chat: ChatEncoder,
    digits: Digits,
    gen: torch.Generator,
    mix: Mix,
) -> tuple[Tensor, dict[str, float]]:
    """Cross-entropy of the answers in synthetic conversations about new scenes and their twins."""
    rng = random.Random(int(torch.randint(2**31, (1,), generator=gen)))
    scene, twin = training_batch(digits, _CONVERSATIONS, gen)
    with torch.no_grad():
        tokens = served.perturbed(encoder(torch.cat([scene.images, twin.images])), gen)
    facts = facts_of(scene.labels, scene.layout) + facts_of(twin.labels, scene.layout)
    order = list(range(len(facts)))
    rng.shuffle(order)
    chats: list[list[Message]] = []
    shown: list[int] = []
    for _ in range(_CONVERSATIONS):
        count = rng.choices((0, 1, 2), mix.counts)[0]
        pictures = [order.pop() for _ in range(count)] if len(order) >= 2 else []
        if len(pictures) == 2 and rng.random() < mix.repeated:
            pictures[1] = pictures[0]
        elif len(pictures) == 2 and mix.equal and rng.random() < mix.equal:
            digit = facts[pictures[0]].digit
            pictures[1] = rng.choice([i for i, other in enumerate(facts) if other.digit == digit])
        chats.append(conversation(DIGITS, [facts[i] for i in pictures], rng, turns=rng.randint(1, 4)))
        shown += pictures
    return answers_loss(model, chat, chats, tokens[shown])

"""The demo's language model: a small Llama that learns to answer from the frozen encoder's visual tokens.

It sees most pictures in the served form, mu + rho * t with a unit vector t near the clean one, and the
rest as the encoder gives them. It thus learns to read both.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from smoothgate_lab.demo.conversation import Message, conversation, facts_of
from smoothgate_lab.demo.scenes import Digits
from smoothgate_lab.demo.tower import TOKENS, Encoder, training_batch

_IGNORED = -100
_CONVERSATIONS = 48


class ChatEncoder:
    """Turns conversations into token ids, with 36 tokens for each picture."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.tokenizer = tokenizer
        ids = {name: tokenizer.convert_tokens_to_ids(name) for name in tokenizer.all_special_tokens}
        self._roles = {
            role: tokenizer.convert_tokens_to_ids(f"<|{role}|>") for role in ("system", "user", "assistant")
        }
        self.end, self.pad = ids["<|end|>"], ids["<pad>"]
        self.image: int = tokenizer.convert_tokens_to_ids("<image>")
        self._text = cache(lambda text: tokenizer(text, add_special_tokens=False).input_ids)

    def __call__(self, messages: list[Message]) -> tuple[list[int], list[int]]:
        """Ids and labels of a conversation as the chat template renders it; -100 marks what is no answer."""
        ids: list[int] = []
        labels: list[int] = []
        for message in messages:
            content = message["content"]
            body: list[int] = []
            for part in [{"type": "text", "text": content}] if isinstance(content, str) else content:
                body += [self.image] * TOKENS if part["type"] == "image" else self._text(part["text"])
            body.append(self.end)
            ids += [self._roles[message["role"]], *body]
            answer = message["role"] == "assistant"
            labels += [_IGNORED, *(body if answer else [_IGNORED] * len(body))]
        return ids, labels


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


@dataclass(frozen=True, slots=True)
class Served:
    """The constants of the served form: the centre `mu` (36, 160) and the length `rho`."""

    mu: Tensor
    rho: float

    @classmethod
    @torch.no_grad()
    def measure(cls, encoder: Encoder, digits: Digits, gen: torch.Generator, batches: int = 20) -> Served:
        """Measure the constants on new training scenes."""
        tokens = torch.cat(
            [encoder(b.images) for _ in range(batches) for b in training_batch(digits, 64, gen)]
        )
        mu = tokens.mean(0)
        return cls(mu, float((tokens - mu).flatten(1).norm(dim=1).mean()))

    def perturbed(self, tokens: Tensor, gen: torch.Generator) -> Tensor:
        """About two in three in the served form with directions near the clean ones, the rest unchanged."""
        n = len(tokens)
        unit = F.normalize((tokens - self.mu).flatten(1), dim=1)
        noise = F.normalize(torch.randn(unit.shape, generator=gen), dim=1)
        stranger = unit[torch.randperm(n, generator=gen)]
        off = (
            0.4 * torch.rand(n, 1, generator=gen) * noise
            + 0.3 * torch.rand(n, 1, generator=gen) ** 2 * stranger
        )
        near = F.normalize(unit + off * (torch.rand(n, 1, generator=gen) < 0.7), dim=1)
        served = self.mu + self.rho * near.view_as(tokens)
        return torch.where((torch.rand(n, 1, 1, generator=gen) < 0.65), served, tokens)


def language_loss(
    model: LlamaForCausalLM,
    encoder: Encoder,
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
    rows: list[tuple[list[int], list[int]]] = []
    shown: list[int] = []
    for _ in range(_CONVERSATIONS):
        count = rng.choices((0, 1, 2), mix.counts)[0]
        pictures = [order.pop() for _ in range(count)] if len(order) >= 2 else []
        if len(pictures) == 2 and rng.random() < mix.repeated:
            pictures[1] = pictures[0]
        elif len(pictures) == 2 and mix.equal and rng.random() < mix.equal:
            digit = facts[pictures[0]].digit
            pictures[1] = rng.choice([i for i, other in enumerate(facts) if other.digit == digit])
        rows.append(chat(conversation([facts[i] for i in pictures], rng, turns=rng.randint(1, 4))))
        shown += pictures
    width = max(len(ids) for ids, _ in rows)
    ids = torch.tensor([r + [chat.pad] * (width - len(r)) for r, _ in rows])
    labels = torch.tensor([r + [_IGNORED] * (width - len(r)) for _, r in rows])
    embeds: Tensor = model.get_input_embeddings()(ids)
    places = ids == chat.image
    embeds = embeds.masked_scatter(places[..., None], tokens[shown].reshape(-1, tokens.shape[-1]))
    hidden: Any = model.model(inputs_embeds=embeds, use_cache=False).last_hidden_state
    wanted = labels[:, 1:] != _IGNORED
    logits = model.lm_head(hidden[:, :-1][wanted])
    target = labels[:, 1:][wanted]
    accuracy = float((logits.argmax(1) == target).float().mean())
    return F.cross_entropy(logits, target), {"token accuracy": accuracy}

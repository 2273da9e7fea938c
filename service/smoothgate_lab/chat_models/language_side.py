"""A bundled model's language side: a small Llama that learns to answer from the frozen encoder's tokens.

It sees most pictures in the served form, mu + rho * t with a unit vector t near the clean one, and the
rest as the encoder gives them. It thus learns to read both.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from smoothgate_lab.chat_models.chats import Message

_IGNORED = -100


class ChatEncoder:
    """Turns conversations into token ids, with `tokens_per_image` tokens for each picture."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, tokens_per_image: int) -> None:
        self.tokenizer = tokenizer
        ids = {name: tokenizer.convert_tokens_to_ids(name) for name in tokenizer.all_special_tokens}
        self._roles = {
            role: tokenizer.convert_tokens_to_ids(f"<|{role}|>") for role in ("system", "user", "assistant")
        }
        self.end, self.pad = ids["<|end|>"], ids["<pad>"]
        self.image: int = tokenizer.convert_tokens_to_ids("<image>")
        self._picture = [self.image] * tokens_per_image
        self._text = cache(lambda text: tokenizer(text, add_special_tokens=False).input_ids)

    def __call__(self, messages: list[Message]) -> tuple[list[int], list[int]]:
        """Ids and labels of a conversation as the chat template renders it; -100 marks what is no answer."""
        ids: list[int] = []
        labels: list[int] = []
        for message in messages:
            content = message["content"]
            body: list[int] = []
            for part in [{"type": "text", "text": content}] if isinstance(content, str) else content:
                image = part["type"] == "image"
                body += self._picture if image else self._text(part["text"])
            body.append(self.end)
            ids += [self._roles[message["role"]], *body]
            answer = message["role"] == "assistant"
            labels += [_IGNORED, *(body if answer else [_IGNORED] * len(body))]
        return ids, labels


@dataclass(frozen=True, slots=True)
class Served:
    """The constants of the served form: the centre `mu` (T, D) and the length `rho`."""

    mu: Tensor
    rho: float

    @classmethod
    def measure(cls, batches: Iterable[Tensor]) -> Served:
        """Measure the constants on batches of visual tokens (N, T, D)."""
        tokens = torch.cat(list(batches))
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


def answers_loss(
    model: LlamaForCausalLM, chat: ChatEncoder, chats: Sequence[list[Message]], tokens: Tensor
) -> tuple[Tensor, dict[str, float]]:
    """Cross-entropy of the answers in conversations.

    Args:
        model: the language model.
        chat: makes token ids of the conversations.
        chats: the conversations.
        tokens: (M, T, D) visual tokens of their pictures, in their order.
    """
    rows = [chat(messages) for messages in chats]
    width = max(len(ids) for ids, _ in rows)
    ids = torch.tensor([r + [chat.pad] * (width - len(r)) for r, _ in rows])
    labels = torch.tensor([r + [_IGNORED] * (width - len(r)) for _, r in rows])
    embeds: Tensor = model.get_input_embeddings()(ids)
    places = ids == chat.image
    embeds = embeds.masked_scatter(places[..., None], tokens.reshape(-1, tokens.shape[-1]))
    hidden: Any = model.model(inputs_embeds=embeds, use_cache=False).last_hidden_state
    wanted = labels[:, 1:] != _IGNORED
    logits = model.lm_head(hidden[:, :-1][wanted])
    target = labels[:, 1:][wanted]
    accuracy = float((logits.argmax(1) == target).float().mean())
    return F.cross_entropy(logits, target), {"token accuracy": accuracy}

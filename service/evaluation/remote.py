"""The running service as a black box: what the square attack can see of it."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import httpx
import torch
from torch import Tensor

from service.demo.evaluate import to_picture

_WORKERS = 8


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer, and the sum of its tokens' log-probabilities."""

    answer: str
    log_probability: float


class RemoteModel:
    """Asks one question about pictures over `/v1/chat/completions`, eight at a time.

    Args:
        base_url: of the service, without `/v1`.
        question: the question.
        smoothing: the `smoothing` field of every request, or None.
    """

    def __init__(self, base_url: str, question: str, smoothing: dict[str, object] | None = None) -> None:
        self._http = httpx.Client(base_url=base_url, timeout=120)
        self._question = question
        self._smoothing = smoothing

    def ask(self, x: Tensor) -> list[Reply]:
        """The replies to pictures (B, 3, H, W), sent as PNG: rounded to 8 bits."""
        with ThreadPoolExecutor(_WORKERS) as pool:
            return list(pool.map(self._one, x))

    def score(self, right: Sequence[str], x: Tensor) -> Tensor:
        """(B,): how sure the service is of the right answers; lower where it gives another one."""
        replies = self.ask(x)
        return torch.tensor(
            [
                reply.log_probability if reply.answer == wanted else -100 - reply.log_probability
                for reply, wanted in zip(replies, right, strict=True)
            ]
        )

    def _one(self, x: Tensor) -> Reply:
        file = io.BytesIO()
        to_picture(x).save(file, "PNG")
        uri = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
        content = [
            {"type": "image_url", "image_url": {"url": uri}},
            {"type": "text", "text": self._question},
        ]
        body: dict[str, object] = {
            "messages": [{"role": "user", "content": content}],
            "temperature": 0,
            "max_tokens": 40,
            "logprobs": True,
        }
        if self._smoothing is not None:
            body["smoothing"] = self._smoothing
        response = self._http.post("/v1/chat/completions", json=body)
        (choice,) = response.raise_for_status().json()["choices"]
        told = choice["logprobs"]["content"]
        return Reply(choice["message"]["content"], sum(float(token["logprob"]) for token in told))

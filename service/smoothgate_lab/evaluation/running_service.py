"""The running service as a black box, as attacks without gradients see it, and how to start it."""

from __future__ import annotations

import math
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import httpx
import torch
from torch import Tensor

from smoothgate.errors import SmoothgateError
from smoothgate.pictures.images import to_picture
from smoothgate.vision.png import encode_png, png_data_uri

_WORKERS = 8
_START_SECONDS = 600
_STOP_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer and the sum of its tokens' log-probabilities."""

    answer: str
    log_probability: float


class RemoteModel:
    """Asks one question about pictures over `/v1/chat/completions`, eight at a time. Close it with `with`.

    Args:
        base_url: address of the service, without `/v1`.
        question: the question.
        smoothing: the `smoothing` field of every request.
    """

    def __init__(self, base_url: str, question: str, smoothing: Mapping[str, object]) -> None:
        self._http = httpx.Client(base_url=base_url, timeout=120)
        self._question = question
        self._smoothing = smoothing

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def ask(self, x: Tensor) -> list[Reply]:
        """The replies to pictures (B, 3, H, W), which are sent as PNG and so rounded to 8 bits."""
        with ThreadPoolExecutor(_WORKERS) as pool:
            return list(pool.map(self._one, x))

    def score(self, right: Sequence[str], x: Tensor) -> Tensor:
        """(B,): how sure the service is of the right answers. Other answers give a lower score."""
        replies = self.ask(x)
        return torch.tensor(
            [
                reply.log_probability if reply.answer == wanted else -100 - reply.log_probability
                for reply, wanted in zip(replies, right, strict=True)
            ]
        )

    def probabilities(self, choices: Sequence[str], x: Tensor) -> Tensor:
        """(B, C + 1): the probability that the service states for its answer, at the place of that answer.

        The last place stands for answers that are none of the C choices. What is left is spread evenly, since
        a reply states no more.
        """
        places = {choice: place for place, choice in enumerate(choices)}
        found = torch.zeros(len(x), len(choices) + 1)
        for row, reply in zip(found, self.ask(x), strict=True):
            stated = math.exp(min(reply.log_probability, 0.0))
            row += (1 - stated) / len(choices)
            row[places.get(reply.answer, len(choices))] = stated
        return found

    def psm_digest(self, x: Tensor) -> str | None:
        """The digest of the PSM that certificates name, from an answer about one picture (3, H, W)."""
        (certificate,) = self._answer(x)["certificates"]
        digest: str | None = certificate["model"]["psm_digest"]
        return digest

    def _one(self, x: Tensor) -> Reply:
        (choice,) = self._answer(x)["choices"]
        told = choice["logprobs"]["content"]
        return Reply(choice["message"]["content"], sum(float(token["logprob"]) for token in told))

    def _answer(self, x: Tensor) -> dict[str, Any]:
        uri = png_data_uri(encode_png(to_picture(x)))
        content = [
            {"type": "image_url", "image_url": {"url": uri}},
            {"type": "text", "text": self._question},
        ]
        body: dict[str, object] = {
            "messages": [{"role": "user", "content": content}],
            "temperature": 0,
            "max_tokens": 40,
            "logprobs": True,
            "smoothing": self._smoothing,
        }
        try:
            response = self._http.post("/v1/chat/completions", json=body)
        except httpx.HTTPError as error:
            raise SmoothgateError(f"The attacked service failed: {error!r}", code="no_service") from error
        if not response.is_success:
            raise SmoothgateError(f"The attacked service failed: {response.text}", code="no_service")
        answer: dict[str, Any] = response.json()
        return answer


@dataclass(frozen=True, slots=True)
class Running:
    """A service that runs in a process of its own.

    Attributes:
        url: its address, without `/v1`.
        pid: the id of its process.
    """

    url: str
    pid: int


def free_port() -> int:
    """A free TCP port of 127.0.0.1."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


@contextmanager
def running(
    log: Path,
    settings: Mapping[str, str] | None = None,
    *,
    port: int | None = None,
    until: str = "/health/ready",
) -> Iterator[Running]:
    """Run `smoothgate serve` in a process of its own, with the settings of this process's environment.

    Args:
        log: gets the output of the service.
        settings: further environment variables.
        port: the port of the service, or None for a free one.
        until: the service has started when this path answers with success.

    Raises:
        SmoothgateError: code `no_service`: the service did not start.
    """
    port = port or free_port()
    url = f"http://127.0.0.1:{port}"
    environment = os.environ | {"SMOOTHGATE_HOST": "127.0.0.1", "SMOOTHGATE_PORT": str(port)}
    environment |= settings or {}
    command = [sys.executable, "-c", "from smoothgate.cli.main import app; app()", "serve"]
    with log.open("w") as out:
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=out)  # noqa: S603
    try:
        _wait(url + until, process, log)
        yield Running(url, process.pid)
    finally:
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(httpx.TransportError):
            if httpx.get(url).is_success:
                return
        time.sleep(0.5)
    raise SmoothgateError(f"The service did not start. {log} says why.", code="no_service")

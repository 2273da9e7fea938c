"""What is measured of one chat: under our names, and under those of OpenTelemetry's GenAI conventions."""

from __future__ import annotations

import time
from typing import Any

from smoothgate import metrics, tracing

_OPERATION, _PROVIDER = "chat", "vllm"


class ChatTelemetry:
    """Times and tokens of one chat, from its beginning until `end`.

    Args:
        route: its name in the metrics.
        model: as clients know it.
    """

    def __init__(self, route: str, model: str) -> None:
        self._route = route
        self._labels = (_OPERATION, _PROVIDER, model)
        self._started = time.perf_counter()
        self._first: float | None = None
        self._usage: dict[str, int] = {}
        self._span = tracing.current()
        self._note("gen_ai.operation.name", _OPERATION)
        self._note("gen_ai.provider.name", _PROVIDER)
        self._note("gen_ai.request.model", model)

    def text(self) -> None:
        """Text of a streamed answer goes to the client."""
        if self._first is None:
            self._first = time.perf_counter()
            seconds = self._first - self._started
            metrics.FIRST_TEXT_SECONDS.labels(self._route).observe(seconds)
            metrics.GEN_AI_FIRST_TOKEN.labels(*self._labels).observe(seconds)

    def used(self, usage: dict[str, Any]) -> None:
        """Tokens, as vLLM counts them."""
        for kind, name in (("input", "prompt_tokens"), ("output", "completion_tokens")):
            if isinstance(tokens := usage.get(name), int):
                self._usage[kind] = tokens

    def end(self, outcome: str) -> None:
        """The chat has ended: `ok`, the code of an error, or `cancelled`."""
        now = time.perf_counter()
        error = "" if outcome == "ok" else outcome
        metrics.GEN_AI_DURATION.labels(*self._labels, error).observe(now - self._started)
        for kind, tokens in self._usage.items():
            metrics.GEN_AI_TOKENS.labels(*self._labels, kind).observe(tokens)
            self._note(f"gen_ai.usage.{kind}_tokens", tokens)
        if self._first is not None and (written := self._usage.get("output", 0)) > 1:
            metrics.GEN_AI_PER_TOKEN.labels(*self._labels).observe((now - self._first) / (written - 1))
        if error:
            self._note("error.type", error)

    def _note(self, name: str, value: str | int) -> None:
        # A stream that its client left may end after the span of its request.
        if self._span.is_recording():
            self._span.set_attribute(name, value)

"""Which fields of a client's chat request vLLM gets, and how much they may ask for.

vLLM takes more: fields that name addresses (`kv_transfer_params`), jump its queue (`priority`), choose its
worker (`data_parallel_rank`) or reach into its processors. A field that is not listed is refused by name.
docs/operations.md has the same lists.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from pydantic import TypeAdapter, ValidationError

from smoothgate.errors import MalformedRequest, Unacceptable

Json = dict[str, Any]

#: Fields of OpenAI's API that vLLM gets.
OPENAI = frozenset(
    {
        "frequency_penalty",
        "logit_bias",
        "logprobs",
        "max_completion_tokens",
        "max_tokens",
        "n",
        "parallel_tool_calls",
        "presence_penalty",
        "reasoning_effort",
        "response_format",
        "seed",
        "stop",
        "stream",
        "stream_options",
        "temperature",
        "tool_choice",
        "tools",
        "top_logprobs",
        "top_p",
    }
)
#: Fields of vLLM's own that it gets.
VLLM = frozenset(
    {
        "add_generation_prompt",
        "add_special_tokens",
        "allowed_token_ids",
        "bad_words",
        "chat_template_kwargs",
        "continue_final_message",
        "documents",
        "echo",
        "ignore_eos",
        "include_reasoning",
        "include_stop_str_in_output",
        "length_penalty",
        "logprob_token_ids",
        "min_p",
        "min_tokens",
        "prompt_logprobs",
        "repetition_penalty",
        "return_prompt_text",
        "return_token_ids",
        "return_tokens_as_token_ids",
        "skip_special_tokens",
        "spaces_between_special_tokens",
        "stop_token_ids",
        "structured_outputs",
        "thinking_token_budget",
        "top_k",
        "truncate_prompt_tokens",
        "truncation_side",
        "use_beam_search",
    }
)
#: Fields of OpenAI's API that change no answer of vLLM's: taken and left out.
LEFT_OUT = frozenset(
    {
        "metadata",
        "prediction",
        "prompt_cache_key",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "store",
        "user",
    }
)

# Objects that the check of vLLM or our own looks into, whatever they are.
_OBJECTS = ("chat_template_kwargs", "structured_outputs")

_NUMBER = TypeAdapter(int)


class EngineFields:
    """Holds the parameters of requests to the lists and to the operator's limits.

    Args:
        further: fields that vLLM gets beyond those listed.
        max_choices: of one request.
        max_tokens: of one answer; None: as many as the model's context has room for.
        max_logprobs: per token.
    """

    def __init__(
        self, further: Collection[str], *, max_choices: int, max_tokens: int | None, max_logprobs: int
    ) -> None:
        self._sent = OPENAI | VLLM | frozenset(further)
        self._max_choices = max_choices
        self._max_tokens = max_tokens
        self._max_logprobs = max_logprobs

    def checked(self, parameters: Json) -> Json:
        """What vLLM gets of the parameters of a request.

        Raises:
            MalformedRequest: an object that is none.
            Unacceptable: a field that is not listed (`unknown_field`), or a number above its limit
                (`out_of_range`).
        """
        for name, value in parameters.items():
            if value is not None and not self._is_taken(name, value):
                raise Unacceptable(
                    f"{name} is not a field that this service takes.", param=name, code="unknown_field"
                )
        sent = {name: value for name, value in parameters.items() if name in self._sent}
        for name in _OBJECTS:
            if not isinstance(sent.get(name), dict | None):
                raise MalformedRequest(f"{name} must be an object.", param=name)
        if "chat_template" in (sent.get("chat_template_kwargs") or {}):
            raise Unacceptable(
                "A chat template cannot be sent by a client.",
                param="chat_template_kwargs.chat_template",
                code="unknown_field",
            )
        _limit(sent, "n", self._max_choices)
        for name in ("top_logprobs", "prompt_logprobs"):
            _limit(sent, name, self._max_logprobs, least=0)
        if isinstance(ids := sent.get("logprob_token_ids"), list) and len(ids) > self._max_logprobs:
            raise _above("logprob_token_ids", self._max_logprobs)
        if self._max_tokens is not None:
            for name in ("max_tokens", "max_completion_tokens"):
                _limit(sent, name, self._max_tokens)
            if sent.get("max_tokens") is None and sent.get("max_completion_tokens") is None:
                sent["max_completion_tokens"] = self._max_tokens
        return sent

    def _is_taken(self, name: str, value: Any) -> bool:
        # A client that asks for text alone asks for what it gets.
        return name in self._sent or name in LEFT_OUT or (name == "modalities" and value == ["text"])


def longest_answer(parameters: Json) -> int | None:
    """How many tokens the answer to a request may have, over all its choices; None: it sets no limit."""
    most = parameters.get("max_completion_tokens") or parameters.get("max_tokens")
    choices = parameters.get("n") or 1
    return most * choices if isinstance(most, int) and isinstance(choices, int) else None


def _limit(parameters: Json, name: str, most: int, *, least: int | None = None) -> None:
    """Refuse a number above its limit. What is no number is vLLM's to refuse: it reads numbers as we do."""
    try:
        number = _NUMBER.validate_python(parameters.get(name))
    except ValidationError:
        return
    # vLLM reads -1 as "all".
    if number > most or (least is not None and number < least):
        raise _above(name, most)


def _above(name: str, most: int) -> Unacceptable:
    return Unacceptable(f"{name} may be at most {most} here.", param=name, code="out_of_range")

"""Many prompts in one request, each as embeddings: several times faster than one by one.

All prompts are the same but for their visual tokens. vLLM applies its chat template to the messages once,
with placeholders in the places of the images. The text is embedded once, from the checkpoint. It is right for
language models that see nothing but a sequence of embeddings (`vision.text_embeddings.PLAIN`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from smoothgate.engine.encoded_tensor import encoded
from smoothgate.engine.engine_client import EngineClient
from smoothgate.errors import EngineFailed, MalformedRequest
from smoothgate.off_loop import off_loop

Json = dict[str, Any]

#: Most prompts in a request, and most bytes of their embeddings.
MOST_PROMPTS, MOST_BYTES = 64, 16 * 2**20
# Fields of a chat that shape its prompt, and nothing else.
_PROMPT_FIELDS = (
    "add_generation_prompt",
    "add_special_tokens",
    "chat_template_kwargs",
    "continue_final_message",
)
# Fields that may shape the prompt or the text of a chat alone: with one of them, nothing is asked in a list.
_NOT_IN_LISTS = ("documents", "include_reasoning", "reasoning_effort", "thinking_token_budget")
_CHAT_ONLY = (
    *_PROMPT_FIELDS,
    "max_completion_tokens",
    "messages",
    "parallel_tool_calls",
    "return_tokens_as_token_ids",
)


@dataclass(frozen=True, slots=True, eq=False)
class PromptTemplate:
    """A prompt with places for visual tokens.

    Attributes:
        embeddings: of the text (L, D); rows of visual tokens have no meaning yet.
        places: numbers of the rows that are visual tokens, (T,). Not a mask: torch would count that anew for
            each prompt, with all of its threads.
        parameters: of vLLM's request, without the prompt.
    """

    embeddings: Tensor
    places: Tensor
    parameters: Json

    @property
    def most(self) -> int:
        """Most prompts in one request."""
        return max(1, min(MOST_PROMPTS, MOST_BYTES // max(1, self.embeddings.nbytes)))

    def filled(self, tokens: Sequence[Tensor]) -> bytes:
        """The prompt with the visual tokens (T, D) of each image, as vLLM takes it: in base64."""
        whole = self.embeddings.clone()
        whole[self.places] = torch.cat(list(tokens)).to(whole.dtype)
        if not whole.isfinite().all():
            raise EngineFailed("Some visual tokens are not finite.")
        return encoded(whole)


class PromptLists:
    """Asks vLLM about lists of prompts.

    Args:
        client: of vLLM.
        embeddings: (n,) tokens -> (n, D) text embeddings.
        image_token: the token that stands for a visual token.
        dtype: the engine's arithmetic.
    """

    def __init__(
        self,
        client: EngineClient,
        embeddings: Callable[[Sequence[int]], Tensor],
        image_token: int,
        dtype: torch.dtype,
    ) -> None:
        self._client = client
        self._embeddings = embeddings
        self._image_token = image_token
        self._dtype = dtype

    async def template(self, body: Json, visual_tokens: int) -> PromptTemplate:
        """The prompt of a chat.

        Args:
            body: vLLM's chat request, with placeholders as text in the places of the images.
            visual_tokens: how many of them there are.

        Raises:
            MalformedRequest: the prompt leaves no room for an answer.
            EngineFailed: the prompt has another number of placeholders.
            LookupError: the request has a field that only the chat route knows.
            SmoothgateError: as `EngineClient.tokens`.
        """
        for name in _NOT_IN_LISTS:
            if body.get(name) is not None:
                raise LookupError(f"{name} is known to the chat route alone")
        asked = {name: body[name] for name in ("model", "messages", *_PROMPT_FIELDS) if name in body}
        tokens, context = await self._client.tokens(asked)
        places = (torch.tensor(tokens) == self._image_token).nonzero().flatten()
        if len(places) != visual_tokens:
            raise EngineFailed("The engine reads another number of visual tokens in this prompt.")
        room = context - len(tokens)
        if room < 1:
            raise MalformedRequest(
                f"The prompt has {len(tokens)} tokens, and the model's context {context}.", param="messages"
            )
        parameters = {name: value for name, value in body.items() if name not in _CHAT_ONLY}
        wanted = body.get("max_completion_tokens") or body.get("max_tokens") or room
        parameters["max_tokens"] = min(int(wanted), room)
        text = await off_loop(self._embeddings, tokens)
        return PromptTemplate(text.to(self._dtype), places, parameters)

    async def complete(
        self, template: PromptTemplate, prompts: Sequence[Sequence[Tensor]], request_id: str
    ) -> list[Json]:
        """One answer for each prompt, each as a chat completion of its own.

        Args:
            template: of all prompts.
            prompts: the visual tokens (T, D) of each image, for each prompt; at most `template.most`.
            request_id: sent along.

        Raises:
            SmoothgateError: as `EngineClient.completions`.
        """
        encoded = await off_loop(lambda: [template.filled(tokens) for tokens in prompts])
        answer = await self._client.completions(template.parameters, encoded, request_id)
        choices = answer.get("choices")
        texts = {
            one["index"]: one
            for one in (choices if isinstance(choices, list) else [])
            if isinstance(one, dict) and isinstance(one.get("text"), str)
        }
        if set(texts) != set(range(len(prompts))):
            raise EngineFailed("The engine has not answered each prompt.")
        usage = answer.get("usage") or {}
        return [_as_chat(answer, texts[number], usage, len(prompts)) for number in range(len(prompts))]


def _as_chat(answer: Json, choice: Json, usage: Json, prompts: int) -> Json:
    """One of several completions, as a chat completion. The usage of all is shared evenly."""
    share = {name: round(value / prompts) for name, value in usage.items() if isinstance(value, int)}
    message = {"role": "assistant", "content": choice["text"]}
    return {
        "id": answer.get("id"),
        "object": "chat.completion",
        "created": answer.get("created"),
        "model": answer.get("model"),
        "choices": [{"index": 0, "message": message, "finish_reason": choice.get("finish_reason")}],
        "usage": share,
    }

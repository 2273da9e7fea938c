"""How the language model is asked about noisy copies: one by one as chats, or many in a list."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from smoothgate.engine import EngineClient
from smoothgate.engine.answers import read_completion
from smoothgate.engine.prompt_lists import MOST_PROMPTS, PromptLists, PromptTemplate
from smoothgate.errors import RequestError, SmoothgateError
from smoothgate.gate.answer_form import AnswerForm
from smoothgate.gate.chat_images import ImageSlot, with_images_replaced
from smoothgate.gate.token_meter import TokenMeter
from smoothgate.gate.visual_chat import visual_parts
from smoothgate.gate.voting import Generation, Sample
from smoothgate.logs import get_logger
from smoothgate.vision import DecodedImage, VisionAdapter

Json = dict[str, Any]

log = get_logger("gate")


class ChatAsker:
    """Asks about one sample at a time: right for every family.

    Args:
        client: of vLLM.
        body: of the chat request, with an empty part in the place of each image.
        slots: these places.
        images: what belongs there.
        adapter: of the model.
        form: reads the answers.
        request_id: sent along, with the number of the sample.
        tokens: counts those of each generation.
    """

    most = 1
    parallel = 64

    def __init__(
        self,
        client: EngineClient,
        body: Json,
        slots: Sequence[ImageSlot],
        images: Sequence[DecodedImage],
        adapter: VisionAdapter,
        form: AnswerForm,
        request_id: str,
        tokens: TokenMeter,
    ) -> None:
        self._client = client
        self._body = body
        self._slots = slots
        self._images = images
        self._adapter = adapter
        self._form = form
        self.tokens = tokens
        self.request_id = request_id

    async def __call__(self, samples: Sequence[Sample]) -> list[Generation]:
        """As `Asker`."""
        asked = [asyncio.create_task(self._one(*sample)) for sample in samples]
        try:
            return await asyncio.gather(*asked)
        finally:
            for one in asked:
                one.cancel()
            await asyncio.gather(*asked, return_exceptions=True)

    async def _one(self, number: int, tokens: Sequence[Tensor]) -> Generation:
        parts = [
            await visual_parts(self._adapter, one, image.height, image.width)
            for one, image in zip(tokens, self._images, strict=True)
        ]
        body = self._body | {"messages": with_images_replaced(self._body["messages"], self._slots, parts)}
        with self.tokens.under_way(1):
            completion = await self._client.chat(body, f"{self.request_id}-{number}")
        return self.generation(completion)

    def generation(self, completion: Json) -> Generation:
        """What a completion says. Its tokens are counted."""
        read = read_completion(completion)
        usage = read.usage or {}
        total = usage.get("total_tokens")
        self.tokens.came(total if isinstance(total, int) else 0)
        return Generation(completion, read.text, self._form.canonical(read.text))

    def with_placeholders(self) -> tuple[Json, int]:
        """The request with placeholders as text in the places of the images, and how many there are.

        Raises:
            LookupError: the model has none.
        """
        if self._adapter.list_token is None:
            raise LookupError("the model has no token that stands for a visual one")
        _, placeholder = self._adapter.list_token
        parts, total = [], 0
        for image in self._images:
            runs = self._adapter.prompt(image.height, image.width).runs
            text = "".join(run if isinstance(run, str) else placeholder * run for run in runs)
            parts.append([{"type": "text", "text": text}])
            total += sum(run for run in runs if isinstance(run, int))
        messages = with_images_replaced(self._body["messages"], self._slots, parts)
        return self._body | {"messages": messages}, total


class ListAsker:
    """Asks about many samples in one request, where that is known to give the same prompt.

    The first sample goes through the chat route. If vLLM counts another number of tokens there than the list
    would send, or refuses lists, all others go that way too.

    Args:
        chat: asks one by one.
        lists: asks about lists.
    """

    def __init__(self, chat: ChatAsker, lists: PromptLists) -> None:
        self._chat = chat
        self._lists = lists
        self._template: PromptTemplate | None = None
        self._checked = False
        self._checking = asyncio.Lock()

    @property
    def most(self) -> int:
        """As `Asker`."""
        return self._template.most if self._template is not None else self._chat.most

    @property
    def parallel(self) -> int:
        """As `Asker`: while some prompts are computed, as many are made."""
        if self._template is not None:
            return 2 * MOST_PROMPTS // self._template.most
        return self._chat.parallel if self._checked else 1

    async def __call__(self, samples: Sequence[Sample]) -> list[Generation]:
        """As `Asker`."""
        async with self._checking:
            if not self._checked:
                return await self._first(samples)
        if self._template is None:
            return await self._chat(samples)
        identifier = f"{self._chat.request_id}-{samples[0][0]}"
        prompts = [tokens for _, tokens in samples]
        try:
            with self._chat.tokens.under_way(len(samples)):
                answers = await self._lists.complete(self._template, prompts, identifier)
        except RequestError as error:
            # It may be the list that vLLM refuses. If it is the request, the chat is refused too.
            log.warning("a list of prompts is refused: asking one by one", reason=error.message)
            self._template = None
            return await self._chat(samples)
        return [self._chat.generation(answer) for answer in answers]

    async def _first(self, samples: Sequence[Sample]) -> list[Generation]:
        generations = await self._chat(samples)
        try:
            template = await self._lists.template(*self._chat.with_placeholders())
            usage = read_completion(generations[0].completion).usage or {}
            if usage.get("prompt_tokens") == len(template.embeddings):
                self._template = template
            else:
                log.warning(
                    "a list of prompts would not be the prompt of the chat: asking one by one",
                    chat=usage.get("prompt_tokens"),
                    prompt_list=len(template.embeddings),
                )
        except (SmoothgateError, LookupError) as error:
            log.warning("lists of prompts cannot be asked: asking one by one", reason=str(error))
        self._checked = True
        return generations

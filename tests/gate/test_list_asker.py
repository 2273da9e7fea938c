"""How many prompts are at vLLM at a time, by their size, and what becomes of them when one fails."""

import asyncio
from typing import Any, cast

import pytest
import torch

from smoothgate.engine.prompt_lists import MOST_PROMPTS, PromptTemplate
from smoothgate.errors import EngineFailed
from smoothgate.gate.answer_form import AnswerForm
from smoothgate.gate.asking import ChatAsker, ListAsker
from smoothgate.gate.token_meter import TokenMeter


@pytest.mark.parametrize(("tokens", "width"), [(50, 128), (640, 4096), (4000, 8192)])
def test_large_prompts_go_in_short_lists_and_as_many_at_a_time(tokens: int, width: int) -> None:
    """Three prompts of LLaVA-1.5-7B fill a list. Two such lists would leave a GPU idle."""
    asker = ListAsker(cast(Any, None), cast(Any, None))
    embeddings = torch.empty(tokens, width, dtype=torch.bfloat16)
    asker._template = PromptTemplate(embeddings, torch.ones(tokens, dtype=torch.bool), {})
    assert MOST_PROMPTS < asker.most * asker.parallel <= 2 * MOST_PROMPTS


class _OneFails:
    """Fails to answer the first chat. The others take their time, and to end takes them some too."""

    def __init__(self) -> None:
        self.under_way = 0

    async def chat(self, body: object, request_id: str) -> dict[str, Any]:
        self.under_way += 1
        try:
            if request_id.endswith("-0"):
                await asyncio.sleep(0)
                raise EngineFailed("The engine failed.")
            await asyncio.sleep(60)
            return {}
        finally:
            await asyncio.sleep(0.01)
            self.under_way -= 1


@pytest.mark.asyncio
async def test_when_one_fails_the_others_have_ended_before_the_caller_knows() -> None:
    """`verify` closes client and event loop next: a connection that is still being made would be lost."""
    client, form, meter = _OneFails(), AnswerForm("text"), TokenMeter(None, lambda _: None)
    asker = ChatAsker(cast(Any, client), {"messages": []}, [], [], cast(Any, None), form, "test", meter)
    with pytest.raises(EngineFailed):
        await asker([(number, []) for number in range(4)])
    assert client.under_way == 0

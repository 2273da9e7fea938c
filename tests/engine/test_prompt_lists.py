import pytest
import torch

from smoothgate.engine import EngineClient
from smoothgate.engine.prompt_lists import PromptLists


@pytest.mark.asyncio
@pytest.mark.parametrize("field", ["documents", "reasoning_effort", "include_reasoning"])
async def test_what_only_the_chat_route_knows_is_not_asked_in_a_list(field: str) -> None:
    """The prompt would be another one. vLLM is not even asked for its tokens."""
    client = EngineClient("http://127.0.0.1:1")
    lists = PromptLists(client, lambda tokens: torch.zeros(len(tokens), 4), 5, torch.float32)
    with pytest.raises(LookupError, match=field):
        await lists.template({"model": "m", "messages": [], field: "x"}, 1)
    await client.aclose()

import base64
import io
import json

import pytest
import torch

from smoothgate.engine import EngineClient
from smoothgate.engine.engine_client import _content
from smoothgate.engine.prompt_lists import PromptLists, PromptTemplate


@pytest.mark.asyncio
@pytest.mark.parametrize("field", ["documents", "reasoning_effort", "include_reasoning"])
async def test_what_only_the_chat_route_knows_is_not_asked_in_a_list(field: str) -> None:
    """The prompt would be another one. vLLM is not even asked for its tokens."""
    client = EngineClient("http://127.0.0.1:1")
    lists = PromptLists(client, lambda tokens: torch.zeros(len(tokens), 4), 5, torch.float32)
    with pytest.raises(LookupError, match=field):
        await lists.template({"model": "m", "messages": [], field: "x"}, 1)
    await client.aclose()


def test_a_prompt_holds_the_visual_tokens_in_their_places() -> None:
    text, tokens = torch.zeros(5, 2), torch.arange(1.0, 5.0).view(2, 2)
    template = PromptTemplate(text, torch.tensor([1, 3]), {})
    whole = torch.load(io.BytesIO(base64.b64decode(template.filled([tokens[:1], tokens[1:]]))))
    assert whole.tolist() == [[0, 0], [1, 2], [0, 0], [3, 4], [0, 0]]
    assert not text.any(), "the template is for all prompts"


def test_prompts_are_a_field_of_the_request() -> None:
    body = {"model": 'a "b"', "stream": False}
    content = json.loads(_content(body, [b"YQ==", b"Yg=="]))
    assert content == body | {"prompt_embeds": ["YQ==", "Yg=="]}
    assert json.loads(_content(body, [])) == body

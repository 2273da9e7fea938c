"""How many prompts are at vLLM at a time, by their size."""

from typing import Any, cast

import pytest
import torch

from smoothgate.engine.prompt_lists import MOST_PROMPTS, PromptTemplate
from smoothgate.gate.asking import ListAsker


@pytest.mark.parametrize(("tokens", "width"), [(50, 128), (640, 4096), (4000, 8192)])
def test_large_prompts_go_in_short_lists_and_as_many_at_a_time(tokens: int, width: int) -> None:
    """Three prompts of LLaVA-1.5-7B fill a list. Two such lists would leave a GPU idle."""
    asker = ListAsker(cast(Any, None), cast(Any, None))
    embeddings = torch.empty(tokens, width, dtype=torch.bfloat16)
    asker._template = PromptTemplate(embeddings, torch.ones(tokens, dtype=torch.bool), {})
    assert MOST_PROMPTS < asker.most * asker.parallel <= 2 * MOST_PROMPTS

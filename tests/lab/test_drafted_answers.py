"""Drafted answers are the greedy answers, whatever was drafted, and those of a real vLLM."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from smoothgate.bundled import DEMO
from smoothgate.engine import EngineClient
from smoothgate.engine.prompt_lists import PromptLists
from smoothgate.psm.unit_encoder import UnitEncoder
from smoothgate.sampling.draw import draw, generator_noise
from smoothgate.vision import load
from smoothgate.vision.text_embeddings import TextEmbeddings
from smoothgate_lab.chat_models.answerer import Answerer, answers
from smoothgate_lab.chat_models.drafted_answers import DraftedAnswers
from smoothgate_lab.demo.conversation import ONE_PICTURE
from smoothgate_lab.demo.digit_scenes import DigitScenes

TEXTS = [question.phrasings[0] for question in ONE_PICTURE]


def noisy_tokens(scenes: int, copies: int, sigma: float = 1.0) -> Tensor:
    """Visual tokens (scenes * copies, T, D). At this sigma the answers about a scene differ."""
    encoder = UnitEncoder.load(load(str(DEMO.model), device="cpu", dtype=torch.float32), DEMO.psm)
    noise = generator_noise(torch.Generator().manual_seed(0))
    with torch.inference_mode():
        units = [
            unit
            for x in DigitScenes(encoder.adapter, scenes, 0, 5).canvases
            for unit in draw(encoder.units, x, sigma, noise, copies, batch=copies)
        ]
        return encoder.served(torch.cat(units))


def test_drafts_do_not_change_the_answers() -> None:
    tokens = noisy_tokens(3, 10)
    answerer = Answerer(DEMO.model)
    greedy = [answers(answerer, text, tokens) for text in TEXTS]
    assert len(set(greedy[-1])) > 5, "answers that are all the same would need no checks"
    drafted = DraftedAnswers(answerer, TEXTS)
    assert drafted(tokens) == greedy
    assert drafted(tokens) == greedy, "with all answers known"
    drafted.forget()
    backwards = drafted(tokens.flip(0))
    assert [texts[::-1] for texts in backwards] == greedy


@dataclass(frozen=True)
class Asked:
    """Noisy copies, their drafted answers by question, and what a list of prompts for vLLM needs."""

    tokens: Tensor
    answers: list[list[str]]
    text_embeddings: TextEmbeddings
    image_token: tuple[int, str]


@pytest.fixture
def asked() -> Asked:
    tokens = noisy_tokens(6, 32, sigma=0.75)
    image_token = load(str(DEMO.model), device="cpu", dtype=torch.float32).list_token
    assert image_token is not None
    answers = DraftedAnswers(Answerer(DEMO.model), TEXTS)(tokens)
    return Asked(tokens, answers, TextEmbeddings(str(DEMO.model)), image_token)


@pytest.mark.engine
@pytest.mark.asyncio
async def test_vllm_gives_the_same_answers(demo_vllm: str, asked: Asked) -> None:
    number, placeholder = asked.image_token
    pictures = [[each] for each in asked.tokens]
    client = EngineClient(demo_vllm)
    try:
        lists = PromptLists(client, asked.text_embeddings.rows, number, torch.float32)
        for text, mine in zip(TEXTS, asked.answers, strict=True):
            parts = [placeholder * asked.tokens.shape[1], text]
            content = [{"type": "text", "text": part} for part in parts]
            body = {
                "model": DEMO.served_name,
                "messages": [{"role": "user", "content": content}],
                "temperature": 0,
            }
            template = await lists.template(body, asked.tokens.shape[1])
            theirs = []
            for first in range(0, len(pictures), template.most):
                theirs += await lists.complete(template, pictures[first : first + template.most], "test")
            assert [answer["choices"][0]["message"]["content"] for answer in theirs] == mine
    finally:
        await client.aclose()

"""Noisy copies asked about in a list get the answers that they get one by one, from a real vLLM."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
import torch
from torch import Tensor

from smoothgate.bundled import DEMO
from smoothgate.engine import EngineClient
from smoothgate.engine.prompt_lists import PromptLists
from smoothgate.errors import EngineFailed
from smoothgate.gate.answer_form import AnswerForm
from smoothgate.gate.asking import ChatAsker, ListAsker
from smoothgate.gate.chat_images import ImageSlot
from smoothgate.gate.token_meter import TokenMeter
from smoothgate.psm.unit_encoder import UnitEncoder
from smoothgate.sampling.draw import draw, generator_noise
from smoothgate.vision import DecodedImage, decode
from smoothgate.vision.text_embeddings import TextEmbeddings
from tests.whole_service import SAMPLES

pytestmark = [pytest.mark.engine, pytest.mark.asyncio]

COPIES = 12
ROWS = TextEmbeddings(str(DEMO.model)).rows
SLOTS = [ImageSlot(1, 0, "", "")]


@pytest_asyncio.fixture
async def client(demo_vllm: str) -> AsyncIterator[EngineClient]:
    client = EngineClient(demo_vllm)
    yield client
    await client.aclose()


def image() -> DecodedImage:
    return decode((SAMPLES / "three.png").read_bytes(), max_pixels=10**6)


def copies(encoder: UnitEncoder) -> list[Tensor]:
    """Visual tokens of noisy copies. At this sigma their answers differ."""
    x = encoder.adapter.canvas(image()).x
    noise = generator_noise(torch.Generator().manual_seed(0))
    with torch.no_grad():
        units = torch.cat(list(draw(encoder.units, x, 1.0, noise, COPIES, batch=COPIES)))
    return [encoder.served_tokens(unit) for unit in units]


def asker(client: EngineClient, encoder: UnitEncoder, form: AnswerForm, spent: list[int]) -> ChatAsker:
    body = {
        "model": DEMO.served_name,
        "messages": [
            {"role": "system", "content": "Answer in one sentence."},
            {
                "role": "user",
                "content": [{"type": "image_url"}, {"type": "text", "text": "Describe the picture."}],
            },
        ],
        "temperature": 0,
        "max_tokens": 24,
    }
    tokens = TokenMeter(24, lambda used: spent.append(used or 0))
    return ChatAsker(client, form.apply(body), SLOTS, [image()], encoder.adapter, form, "test", tokens)


def listed(chat: ChatAsker, client: EngineClient, encoder: UnitEncoder) -> ListAsker:
    assert encoder.adapter.list_token is not None
    return ListAsker(chat, PromptLists(client, ROWS, encoder.adapter.list_token[0], torch.float32))


@pytest.mark.parametrize(
    "form",
    [
        AnswerForm("text"),
        AnswerForm("text", prefix="A red"),
        AnswerForm("choices", tuple("0123456789")),
    ],
    ids=["text", "prefix", "choices"],
)
async def test_a_list_answers_as_the_chat_does(
    client: EngineClient, demo_encoder: UnitEncoder, form: AnswerForm
) -> None:
    spent: list[int] = []
    chat = asker(client, demo_encoder, form, spent)
    lists = listed(chat, client, demo_encoder)
    samples = [(number, [tokens]) for number, tokens in enumerate(copies(demo_encoder))]
    one_by_one = [(await chat([sample]))[0].text for sample in samples]
    tokens = sum(spent)
    spent.clear()
    first = await lists(samples[:1])
    assert (lists.most, lists.parallel) == (64, 2)
    assert [one.text for one in [*first, *await lists(samples[1:])]] == one_by_one
    assert len(set(one_by_one)) > 1, "otherwise any order would pass"
    assert sum(spent) == pytest.approx(tokens, rel=0.1)


async def test_where_the_prompts_differ_all_are_asked_one_by_one(
    client: EngineClient, demo_encoder: UnitEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat = asker(client, demo_encoder, AnswerForm("text"), [])
    lists = listed(chat, client, demo_encoder)
    body, total = chat.with_placeholders()
    body["messages"] = [*body["messages"], {"role": "user", "content": "And more."}]
    monkeypatch.setattr(chat, "with_placeholders", lambda: (body, total))
    await lists([(0, [copies(demo_encoder)[0]])])
    assert (lists.most, lists.parallel) == (1, 64)


async def test_another_number_of_visual_tokens_is_noticed(
    client: EngineClient, demo_encoder: UnitEncoder
) -> None:
    chat = asker(client, demo_encoder, AnswerForm("text"), [])
    assert demo_encoder.adapter.list_token is not None
    prompts = PromptLists(client, ROWS, demo_encoder.adapter.list_token[0], torch.float32)
    body, total = chat.with_placeholders()
    with pytest.raises(EngineFailed, match="another number"):
        await prompts.template(body, total + 1)

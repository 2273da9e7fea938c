"""The real vLLM through the client: its answers, its input, and what happens when it is killed."""

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from transformers import AutoProcessor, LlavaForConditionalGeneration

from smoothgate.engine import (
    ChatStream,
    EngineClient,
    EngineState,
    LocalEngine,
    MediaCheck,
    image_parts,
    neutralise_messages,
)
from smoothgate.engine.media_check import media_part
from smoothgate.errors import EngineFailed, NotReady, RequestError, UnknownModel
from smoothgate.vision import Prompt
from tests import metric_lines, processes
from tests.checkpoints import HIDDEN_SIZE, IMAGE_TOKEN, MODEL_NAME, TOKENS_PER_IMAGE
from tests.waiting import eventually, until_ready

pytestmark = [pytest.mark.engine, pytest.mark.asyncio(loop_scope="session")]

Json = dict[str, Any]


def tokens() -> torch.Tensor:
    """New visual tokens. vLLM would answer a repeated tensor from its encoder cache."""
    return torch.randn(TOKENS_PER_IMAGE, HIDDEN_SIZE)


def image(tensor: torch.Tensor) -> Json:
    prompt = Prompt("image_embeds", (TOKENS_PER_IMAGE,))
    (part,) = image_parts(tensor, prompt, hidden_size=HIDDEN_SIZE, dtype=torch.float32)
    return part


def text(value: str) -> Json:
    return {"type": "text", "text": value}


def user(*parts: Json | str) -> Json:
    return {"role": "user", "content": list(parts)}


def body(*messages: Json, **parameters: Any) -> Json:
    return {
        "model": MODEL_NAME,
        "messages": list(messages),
        "max_tokens": 8,
        "temperature": 0,
        "ignore_eos": True,
        "return_token_ids": True,
    } | parameters


RUNNING = "vllm:num_requests_running{"
# Work for more than a minute, so that it still runs when vLLM's metrics show it late on a busy machine.
# It has one choice, because several flood vLLM's API server with chunks.
LONG = body(user(text("Count.")), max_tokens=100_000, temperature=1)


@pytest.fixture(scope="module")
def processor(tiny_checkpoint: Path) -> Any:
    return AutoProcessor.from_pretrained(tiny_checkpoint)


@pytest.fixture(scope="module")
def reference(tiny_checkpoint: Path) -> LlavaForConditionalGeneration:
    return LlavaForConditionalGeneration.from_pretrained(tiny_checkpoint).eval()


async def test_the_model_listed_is_the_one_served(engine: LocalEngine) -> None:
    assert [model["id"] for model in await engine.client.models()] == [MODEL_NAME]
    assert engine.status.state is EngineState.READY


async def test_a_request_id_is_passed_on(engine: LocalEngine) -> None:
    answer = await engine.client.chat(body(user(text("Hello"))), request_id="abc")
    assert answer["id"] == "chatcmpl-abc"
    assert answer["usage"]["completion_tokens"] == 8


def chat_of(kind: str, *images: Json) -> list[Json]:
    first, second = images
    if kind == "one image":
        return [user(first, text("What is shown?"))]
    if kind == "text before":
        return [user(text("Look: "), first, text(" what is it?"))]
    if kind == "two images":
        return [user(first, text(" and "), second, text("Which is larger?"))]
    return [
        {"role": "system", "content": "You answer."},
        user(first, text("What is shown?")),
        {"role": "assistant", "content": "A seven."},
        user(text("And here "), second, text("?")),
    ]


@pytest.mark.parametrize("kind", ["one image", "text before", "two images", "two turns"])
async def test_visual_tokens_are_at_the_places_of_their_parts(
    engine: LocalEngine, reference: LlavaForConditionalGeneration, processor: Any, kind: str
) -> None:
    tensors = [tokens(), tokens()]
    answer = await engine.client.chat(
        body(*chat_of(kind, *map(image, tensors)), logprobs=True, top_logprobs=5, max_tokens=1)
    )

    placeholders = chat_of(kind, {"type": "image"}, {"type": "image"})
    prompt = processor.apply_chat_template(placeholders, add_generation_prompt=True)
    used = tensors[: prompt.count(IMAGE_TOKEN)]
    ids = processor.tokenizer(prompt.replace(IMAGE_TOKEN, IMAGE_TOKEN * TOKENS_PER_IMAGE)).input_ids
    assert answer["prompt_token_ids"] == ids

    embeddings = reference.get_input_embeddings()(torch.tensor([ids]))
    where = torch.tensor([ids]) == processor.tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    embeddings = embeddings.masked_scatter(where.unsqueeze(-1), torch.cat(used))
    with torch.no_grad():
        expected = reference(inputs_embeds=embeddings).logits[0, -1].log_softmax(-1)
    (position,) = answer["choices"][0]["logprobs"]["content"]
    top = expected.topk(5)
    assert answer["choices"][0]["token_ids"] == [top.indices[0].item()]
    assert [entry["logprob"] for entry in position["top_logprobs"]] == pytest.approx(
        top.values.tolist(), abs=1e-4
    )


async def test_concurrent_requests_keep_their_images_apart(engine: LocalEngine) -> None:
    chats = [body(user(image(tokens()), text("What is shown?"))) for _ in range(8)]
    together = await asyncio.gather(*map(engine.client.chat, chats))
    alone = [await engine.client.chat(chat) for chat in chats]
    ids = [answer["choices"][0]["token_ids"] for answer in together]
    assert ids == [answer["choices"][0]["token_ids"] for answer in alone]
    assert len(set(map(tuple, ids))) > 1


@pytest.mark.parametrize(
    "parts",
    [
        [text(f"a literal {IMAGE_TOKEN}, then "), "image"],
        [text("cut up <ima"), text("ge>, then "), "image"],
        [text("<"), text("image"), text(">, then"), "image", text("<<image>image>")],
    ],
    ids=["whole", "two parts", "three parts"],
)
async def test_a_placeholder_in_a_text_is_only_text(
    engine: LocalEngine, processor: Any, parts: list[Json | str]
) -> None:
    async def image_runs(messages: list[Json]) -> list[int]:
        part = image(tokens())
        for message in messages:
            message["content"] = [part if item == "image" else item for item in message["content"]]
        ids = (await engine.client.chat(body(*messages)))["prompt_token_ids"]
        image_id = processor.tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
        return [place for place, token in enumerate(ids) if token == image_id]

    smuggled = await image_runs([user(*parts)])
    clean = await image_runs(neutralise_messages([user(*parts)], [IMAGE_TOKEN]))
    assert len(clean) == TOKENS_PER_IMAGE
    assert clean == list(range(clean[0], clean[0] + TOKENS_PER_IMAGE))
    assert smuggled[0] < clean[0], "the test text does smuggle a placeholder in where it is let through"


async def test_pixels_are_refused(engine: LocalEngine) -> None:
    pixel = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
    picture = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{pixel}"}}
    with pytest.raises(RequestError, match="At most 0 image"):
        await engine.client.chat(body(user(picture, text("What is shown?"))))


async def test_vllm_passes_the_check_for_what_it_refuses(engine: LocalEngine) -> None:
    assert await MediaCheck(MODEL_NAME).problem(engine.client) is None
    assert await MediaCheck("another").problem(engine.client) == f"serves {MODEL_NAME} instead of another"


@pytest.mark.parametrize("kind", ["image", "video"])
async def test_vllm_refuses_a_medium_for_its_kind_and_nothing_else(engine: LocalEngine, kind: str) -> None:
    asked = {"model": MODEL_NAME, "messages": [user(media_part(kind))], "max_tokens": 1}
    with pytest.raises(RequestError, match=rf"At most 0 {kind}\(s\) may be provided in one prompt"):
        await engine.client.probe(asked)


@pytest.mark.parametrize("mode", ["whole", "streamed"])
async def test_a_refusal_keeps_vllms_message(engine: LocalEngine, mode: str) -> None:
    ask = engine.client.chat if mode == "whole" else engine.client.stream
    with pytest.raises(RequestError, match="top_p must be in") as refused:
        await ask(body(user(text("Hello")), top_p=7))
    assert (refused.value.status, refused.value.param) == (400, "top_p")
    with pytest.raises(RequestError, match="whole number") as refused:
        await ask(body(user(text("Hello")), n="many"))
    assert (refused.value.status, refused.value.param) == (400, "n")
    with pytest.raises(UnknownModel, match="does not exist") as refused:
        await ask(body(user(text("Hello")), model="other"))
    assert refused.value.status == 404


async def test_a_streamed_answer_is_the_whole_one_in_pieces(engine: LocalEngine) -> None:
    chat = body(user(image(tokens()), text("What is shown?")), max_tokens=40)
    whole = await engine.client.chat(chat)
    chunks = [
        chunk
        async for chunk in await engine.client.stream(chat | {"stream_options": {"include_usage": True}})
    ]
    pieces = [choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"]]
    assert "".join(pieces) == whole["choices"][0]["message"]["content"]
    assert len(pieces) > 10
    assert chunks[-1]["usage"]["completion_tokens"] == 40


async def begun(client: EngineClient) -> ChatStream:
    """A stream that has sent its first chunk.

    vLLM's server takes seconds for its first answers while its core works, so two short answers come first.
    """
    short = LONG | {"max_tokens": 2}
    await client.chat(short)
    [chunk async for chunk in await client.stream(short)]
    stream = await client.stream(LONG)
    await anext(stream)
    return stream


async def until(engine: LocalEngine, *, busy: bool) -> None:
    """Wait until vLLM's own metrics say that it works on a request, or that it does not."""
    transport = httpx.AsyncHTTPTransport(uds=str(engine.socket))
    async with httpx.AsyncClient(transport=transport, base_url="http://engine", timeout=60) as http:

        async def is_so() -> bool:
            return busy == (metric_lines.total((await http.get("/metrics")).text, RUNNING) > 0)

        await eventually(is_so)


async def test_closing_a_stream_early_makes_vllm_drop_the_request(engine: LocalEngine) -> None:
    stream = await begun(engine.client)
    await until(engine, busy=True)
    await stream.aclose()
    await until(engine, busy=False)
    assert [chunk async for chunk in stream] == []


async def test_cancelling_a_whole_answer_makes_vllm_drop_the_request(engine: LocalEngine) -> None:
    chat = asyncio.create_task(engine.client.chat(LONG))
    await until(engine, busy=True)
    chat.cancel()
    await until(engine, busy=False)


async def until_state_is(engine: LocalEngine, state: EngineState) -> None:
    await eventually(lambda: engine.status.state is state)


def processes_of(engine: LocalEngine) -> dict[int, str]:
    (guard,) = (pid for pid, line in processes.mentioning(str(engine.socket)).items() if "guard.py" in line)
    return processes.descendants(guard)


def one(pids: dict[int, str], name: str) -> int:
    (pid,) = (pid for pid, command in pids.items() if name in command)
    return pid


async def test_a_killed_server_fails_its_requests_and_is_replaced(engine: LocalEngine) -> None:
    restarts = engine.status.restarts
    old = processes_of(engine)
    whole = asyncio.create_task(engine.client.chat(LONG))
    stream = await begun(engine.client)

    os.kill(one(old, "api_server"), signal.SIGKILL)
    with pytest.raises(EngineFailed) as failure:
        [chunk async for chunk in stream]
    assert failure.value.status == 502
    with pytest.raises(EngineFailed):
        await whole
    await until_state_is(engine, EngineState.BACKOFF)
    with pytest.raises(NotReady) as refusal:
        await engine.client.chat(LONG)
    assert refusal.value.retry_after
    assert engine.status.last_exit is not None
    assert "SIGKILL" in engine.status.last_exit
    assert not any(map(processes.alive, old)), "the engine core does not outlive its server"
    await until_state_is(engine, EngineState.STARTING)
    assert engine.status.restarts == restarts + 1


@pytest.mark.long
async def test_a_killed_engine_core_fails_its_requests_and_is_replaced(engine: LocalEngine) -> None:
    await until_ready(engine)
    assert (await engine.client.chat(body(user(text("Hello")))))["usage"]["completion_tokens"] == 8
    restarts = engine.status.restarts
    old = processes_of(engine)
    stream = await begun(engine.client)
    os.kill(one(old, "EngineCore"), signal.SIGKILL)
    with pytest.raises(EngineFailed):
        [chunk async for chunk in stream]
    await until_state_is(engine, EngineState.BACKOFF)
    assert not any(map(processes.alive, old))
    await until_state_is(engine, EngineState.STARTING)
    assert engine.status.restarts == restarts + 1

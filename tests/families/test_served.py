"""Every family through the service and a real vLLM."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from smoothgate.schemas import IssuedAnswerCertificate, IssuedCertificate
from tests.families.conftest import AGAINST_VLLM, Served
from tests.families.pictures import Json, image_part, picture

pytestmark = [pytest.mark.engine, pytest.mark.timeout(1200)]

SIZES = [(64, 64), (31, 97), (200, 133), (240, 320)]
QUESTION = {"type": "text", "text": "What is shown?"}
TOKENS = 8
FEW = {"n_select": 32, "n_certify": 128}


def body(served: Served, *parts: Json, **more: Any) -> Json:
    return {
        "model": served.name,
        "messages": [{"role": "user", "content": [*parts, QUESTION]}],
        "temperature": 0,
        "max_tokens": TOKENS,
        "logprobs": True,
        "top_logprobs": 5,
        "ignore_eos": True,
        "return_tokens_as_token_ids": True,
        **more,
    }


def ask(client: httpx.Client, content: Json) -> Json:
    response = client.post("/v1/chat/completions", json=content)
    assert response.status_code == 200, response.text
    answer: Json = response.json()
    return answer


def steps(answer: Json) -> list[dict[str, float]]:
    """Per token of the answer its best candidates."""
    content = answer["choices"][0]["logprobs"]["content"]
    return [{each["token"]: each["logprob"] for each in step["top_logprobs"]} for step in content]


def chosen(answer: Json) -> list[str]:
    return [step["token"] for step in answer["choices"][0]["logprobs"]["content"]]


@torch.no_grad()
def by_transformers(served: Served, *seeds: tuple[int, int, int]) -> tuple[list[int], torch.Tensor, int]:
    """Greedy token ids, log-probabilities of the first token and length of the prompt."""
    model = AutoModelForImageTextToText.from_pretrained(served.path, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(served.path)
    content = [*({"type": "image"} for _ in seeds), QUESTION]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    images = [Image.fromarray(picture(*each)) for each in seeds]
    inputs = processor(images=images, text=[text], return_tensors="pt", add_special_tokens=False)
    length = inputs["input_ids"].shape[1]
    made = model.generate(
        **inputs,
        max_new_tokens=TOKENS,
        min_new_tokens=TOKENS,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
    )
    return made.sequences[0, length:].tolist(), made.logits[0][0].log_softmax(-1), length


def difference(served: Served, *seeds: tuple[int, int, int]) -> float:
    """Of the first token's log-probabilities, the service's unsmoothed answer against the reference."""
    parts = [image_part(*each) for each in seeds]
    ours = ask(served.gate.http, body(served, *parts, smoothing={"mode": "off"}))
    assert len(chosen(ours)) == TOKENS
    if served.name in AGAINST_VLLM and len(seeds) == 1:
        theirs = ask(served.engine, body(served, *parts))
        assert ours["usage"]["prompt_tokens"] == theirs["usage"]["prompt_tokens"]
        assert chosen(ours) == chosen(theirs)
        expected = steps(theirs)[0]
        assert steps(ours)[0].keys() == expected.keys()
    else:
        ids, logs, length = by_transformers(served, *seeds)
        assert ours["usage"]["prompt_tokens"] == length
        assert chosen(ours) == [f"token_id:{each}" for each in ids]
        values, best = logs.topk(5)
        names = [f"token_id:{each}" for each in best.tolist()]
        expected = dict(zip(names, values.tolist(), strict=True))
    return max(abs(value - expected[token]) for token, value in steps(ours)[0].items())


def test_parity(served: Served, record_property: Any) -> None:
    """Without noise and centre, the answer is that of the reference."""
    worst = max(difference(served, (*size, seed)) for seed, size in enumerate(SIZES))
    assert worst < 1e-4
    # Had the picture no influence, equality would say nothing.
    answers = [
        steps(ask(served.gate.http, body(served, image_part(64, 64, seed), smoothing={"mode": "off"})))[0]
        for seed in (0, 50)
    ]
    assert answers[0] != pytest.approx(answers[1], abs=1e-2)
    adapter = served.adapter
    record_property("family", served.name)
    record_property("part_type", adapter.part_type)
    record_property("space", adapter.space)
    record_property("reference", "vLLM" if served.name in AGAINST_VLLM else "transformers")
    record_property("parity", f"{worst:.1e}")


def test_two_images_of_different_size(served: Served) -> None:
    """In one request, in their order."""
    assert difference(served, (64, 64, 1), (31, 97, 2)) < 1e-4


def test_smoothed_and_certified(served: Served) -> None:
    """The certificate states the noise space, and a radius in the upload's pixels."""
    answer = ask(served.gate.http, body(served, image_part(70, 100, 3), smoothing=FEW))
    assert len(chosen(answer)) == TOKENS
    (issued,) = answer["certificates"]
    certificate = IssuedCertificate.model_validate(issued)
    assert certificate.space == served.adapter.space
    assert certificate.image.resize_norm is not None
    assert certificate.image.resize_norm > 0


def test_an_answer_is_certified(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each noisy copy is asked about: in lists where the family allows it, else as a chat of its own."""
    asked = {"chat": 0, "list": 0}
    client = served.gate.service.engine.client
    chat, completions = type(client).chat, type(client).completions

    def one(self: Any, *args: Any) -> Any:
        asked["chat"] += 1
        return chat(self, *args)

    def many(self: Any, content: Json, prompts: Sequence[bytes], *args: Any) -> Any:
        asked["list"] += len(prompts)
        return completions(self, content, prompts, *args)

    monkeypatch.setattr(type(client), "chat", one)
    monkeypatch.setattr(type(client), "completions", many)
    smoothing = {"certify": "answer", "n_certify": 24, "answer": {"choices": ["a", "b"]}}
    parts = [image_part(70, 100, 3), image_part(31, 97, 4), QUESTION]
    content = {
        "model": served.name,
        "messages": [{"role": "user", "content": parts}],
        "temperature": 0,
        "max_tokens": 4,
        "smoothing": smoothing,
    }
    response = served.gate.http.post("/v1/chat/completions", json=content)
    assert response.status_code == 200, response.text
    certificate = IssuedAnswerCertificate.model_validate(response.json()["answer_certificate"])
    assert response.json()["choices"][0]["message"]["content"] == certificate.answer.canonical
    assert certificate.answer.canonical in ("a", "b")
    assert len(certificate.images) == 2
    votes = certificate.votes
    assert votes.hits + votes.runner_up + votes.rest == 24
    assert sum(asked.values()) == 16 + 24
    in_lists = served.adapter.list_token is not None
    assert (asked["chat"] == 1) == in_lists, asked


def test_mixed_sizes_at_once(served: Served) -> None:
    """32 requests, of different sizes and with one or two images, leave the engine alive."""
    sizes = [(64, 64), (40, 120), (150, 90), (200, 200), (33, 57)]

    def one(number: int) -> Json:
        parts = [
            image_part(*sizes[(number + each) % 5], 10 + number + each) for each in range(1 + number % 2)
        ]
        return ask(served.gate.http, body(served, *parts, smoothing={"mode": "off"}))

    with ThreadPoolExecutor(32) as pool:
        together = list(pool.map(one, range(32)))
    restarts = served.gate.metric("smoothgate_engine_restarts_total")
    assert restarts == 0
    for number in (0, 7, 30):
        assert steps(together[number])[0] == pytest.approx(steps(one(number))[0], abs=1e-3)


def test_no_pixel_reaches_the_engine(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the engine would allow."""
    sent: list[Json] = []
    client = served.gate.service.engine.client
    original = type(client).chat

    def recorded(self: Any, content: Json, *args: Any, **kwargs: Any) -> Any:
        sent.append(content)
        return original(self, content, *args, **kwargs)

    monkeypatch.setattr(type(client), "chat", recorded)
    ask(served.gate.http, body(served, image_part(64, 64, 5), smoothing=FEW))
    (content,) = sent
    kinds = {part["type"] for message in content["messages"] for part in message["content"]}
    assert kinds <= {"text", served.adapter.part_type}


def test_what_does_not_fit_is_refused(served: Served) -> None:
    """A client's own embeddings, whatever they hold, and placeholders in a text."""
    part = {"type": served.adapter.part_type, "image_embeds": "", "data": ""}
    response = served.gate.http.post("/v1/chat/completions", json=body(served, part))
    assert response.status_code in (400, 422)
    text = {"type": "text", "text": " ".join(served.adapter.placeholders)}
    ask(served.gate.http, body(served, text, image_part(64, 64, 5), smoothing={"mode": "off"}))

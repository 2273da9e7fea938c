"""Anthropic's own Python SDK against the service and a real vLLM, with only `base_url` changed."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import anthropic
import pytest
import pytest_asyncio

from smoothgate.schemas import IssuedAnswerCertificate, IssuedCertificate
from tests.conformance.conftest import ANSWER, EXTRA, MODEL
from tests.whole_service import data_uri

pytestmark = pytest.mark.engine


@pytest.fixture
def url(base_url: str) -> str:
    return base_url.removesuffix("/v1")


@pytest.fixture
def client(url: str) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=url, api_key="unused", max_retries=0) as client:
        yield client


@pytest_asyncio.fixture
async def async_client(url: str) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(base_url=url, api_key="unused", max_retries=0) as client:
        yield client


def _request(text: str, *names: str, **options: Any) -> dict[str, Any]:
    pictures = [
        {
            "type": "image",
            "source": {
                "type": "base64",
                "media_type": "image/png",
                "data": data_uri(name).partition(",")[2],
            },
        }
        for name in names
    ]
    messages = [{"role": "user", "content": [*pictures, {"type": "text", "text": text}]}]
    fields = {
        "model": MODEL,
        "messages": messages,
        "max_tokens": 40,
        "extra_body": EXTRA | {"temperature": 0},
    }
    return fields | options


def test_whole(client: anthropic.Anthropic) -> None:
    answer: Any = client.messages.create(**_request("Which digit is larger?", "three.png", "seven.png"))
    assert answer.content[0].text == "3 and 7: the second is larger."
    assert answer.stop_reason == "end_turn"
    assert [IssuedCertificate.model_validate(one).model.name for one in answer.certificates] == [MODEL] * 2


def test_streamed(client: anthropic.Anthropic) -> None:
    with client.messages.stream(**_request("Describe the image.", "two.png")) as stream:
        events = list(stream)
        whole = stream.get_final_message()
    assert whole.content[0].text == "A purple 2 on a striped yellow background."
    assert whole.usage.output_tokens > 0
    (end,) = [event for event in events if event.type == "message_delta"]
    certificates: Any = end.model_extra
    assert len(certificates["certificates"]) == 1


def test_an_answer_that_is_cut_off(client: anthropic.Anthropic) -> None:
    answer = client.messages.create(**_request("Describe the image.", "two.png", max_tokens=2))
    assert (answer.stop_reason, answer.usage.output_tokens) == ("max_tokens", 2)


def test_a_stop_sequence(client: anthropic.Anthropic) -> None:
    answer = client.messages.create(**_request("What digit is shown?", "seven.png", stop_sequences=[" is"]))
    assert answer.content[0].text == "The digit"
    assert (answer.stop_reason, answer.stop_sequence) == ("stop_sequence", " is")


def test_a_certified_answer(client: anthropic.Anthropic) -> None:
    answer: Any = client.messages.create(
        **_request("What digit is shown?", "seven.png", extra_body=ANSWER | {"temperature": 0})
    )
    assert answer.content[0].text == "The digit is 7."
    assert IssuedAnswerCertificate.model_validate(answer.answer_certificate).outcome == "certified"


@pytest.mark.asyncio
async def test_async(async_client: anthropic.AsyncAnthropic) -> None:
    answer: Any = await async_client.messages.create(**_request("What digit is shown?", "seven.png"))
    assert answer.content[0].text == "The digit is 7."
    assert len(answer.certificates) == 1

"""LangChain's client for OpenAI's API against the service, with only `base_url` changed."""

from collections.abc import Callable
from typing import Any, Literal

import openai
import pytest
from pydantic import BaseModel

from tests.conformance.conftest import ANSWER, EXTRA, MODEL, NO_SPACE, RADIUS, user

pytestmark = pytest.mark.engine

SEVEN = [user("What digit is shown?", "seven.png")]


@pytest.fixture
def chat(base_url: str, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Makes a client."""
    from langchain_openai import ChatOpenAI

    monkeypatch.setenv("LANGSMITH_TRACING", "false")
    options = {
        "model": MODEL,
        "base_url": base_url,
        "api_key": "unused",
        "temperature": 0,
        "max_retries": 0,
        "extra_body": EXTRA,
    }
    return lambda **fields: ChatOpenAI(**options | fields)


def test_whole(chat: Callable[..., Any]) -> None:
    answer = chat().invoke(SEVEN)
    assert answer.content == "The digit is 7."
    assert answer.response_metadata["finish_reason"] == "stop"
    assert answer.usage_metadata["output_tokens"] == 6


def test_text_only(chat: Callable[..., Any]) -> None:
    answer = chat(max_tokens=2, logprobs=True).invoke([("system", "Be brief."), ("user", "Hello")])
    assert len(answer.response_metadata["logprobs"]["content"]) == 2


def test_streamed(chat: Callable[..., Any]) -> None:
    chunks = list(chat(stream_usage=True).stream(SEVEN))
    assert "".join(chunk.content for chunk in chunks) == "The digit is 7."
    assert sum(chunk.usage_metadata["output_tokens"] for chunk in chunks if chunk.usage_metadata) == 6


@pytest.mark.asyncio
async def test_async(chat: Callable[..., Any]) -> None:
    client = chat()
    assert (await client.ainvoke(SEVEN)).content == "The digit is 7."
    assert "".join([chunk.content async for chunk in client.astream(SEVEN)]) == "The digit is 7."
    await client.root_async_client.close()  # kept otherwise, beyond this test's event loop


def test_structured(chat: Callable[..., Any]) -> None:
    class Answer(BaseModel):
        digit: Literal[7, 8]

    structured = chat(logit_bias=NO_SPACE).with_structured_output(Answer, method="json_schema")
    assert structured.invoke(SEVEN) == Answer(digit=7)


def test_a_certified_answer(chat: Callable[..., Any]) -> None:
    """LangChain drops fields that it does not know. Headers it keeps if it is asked to."""
    answer = chat(extra_body=ANSWER, include_response_headers=True).invoke(SEVEN)
    assert answer.content == "The digit is 7."
    headers = answer.response_metadata["headers"]
    assert headers["smoothgate-outcome"] == "certified"
    assert float(headers["smoothgate-radius"]) >= RADIUS


def test_a_certified_answer_streamed(chat: Callable[..., Any]) -> None:
    """The text alone: headers go out before a stream, and the outcome is known at its end."""
    chunks = list(chat(extra_body=ANSWER).stream(SEVEN))
    assert "".join(chunk.content for chunk in chunks) == "The digit is 7."


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"temperature": -1}, openai.BadRequestError),
        ({"model": "gpt-5"}, openai.NotFoundError),
        ({"extra_body": {"smoothing": {"sigma": 50}}}, openai.UnprocessableEntityError),
    ],
)
def test_errors(chat: Callable[..., Any], fields: dict[str, Any], kind: type[Exception]) -> None:
    with pytest.raises(kind):
        chat(**fields).invoke(SEVEN)

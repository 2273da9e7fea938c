"""LiteLLM's client for OpenAI's API against the service, with only `api_base` changed."""

import importlib
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
import pytest_asyncio

from smoothgate.schemas import IssuedAnswerCertificate
from smoothgate.schemas import IssuedCertificate as Certificate
from tests.conformance.conftest import ANSWER, EXTRA, MODEL, RADIUS, user

pytestmark = [
    pytest.mark.engine,
    pytest.mark.asyncio,
    # What pydantic has to say of LiteLLM's own types.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:litellm"),
    pytest.mark.filterwarnings("ignore::UserWarning:pydantic"),
]

SEVEN = user("What digit is shown?", "seven.png")


@pytest_asyncio.fixture
async def litellm(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Any]:
    monkeypatch.setenv(
        "LITELLM_LOCAL_MODEL_COST_MAP", "True"
    )  # or its import would ask the network for prices
    litellm: Any = importlib.import_module("litellm")  # mypy takes some of it for untyped
    yield litellm
    await litellm.close_litellm_async_clients()
    cache = litellm.in_memory_llm_clients_cache
    for client in cache.cache_dict.values():
        if isinstance(client, openai.OpenAI):
            client.close()
    cache.flush_cache()


@pytest.fixture
def options(base_url: str) -> dict[str, Any]:
    return {
        "model": f"openai/{MODEL}",
        "api_base": base_url,
        "api_key": "unused",
        "messages": [SEVEN],
        "temperature": 0,
        "extra_body": EXTRA,
    }


def _text(chunks: list[Any]) -> str:
    return "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)


async def test_whole(litellm: Any, options: dict[str, Any]) -> None:
    answer = litellm.completion(**options)
    assert answer.choices[0].message.content == "The digit is 7."
    Certificate.model_validate(answer.certificates[0])
    answer = await litellm.acompletion(**options)
    assert answer.choices[0].message.content == "The digit is 7."


async def test_text_only(litellm: Any, options: dict[str, Any]) -> None:
    hello = [{"role": "user", "content": "Hello"}]
    answer = litellm.completion(**options | {"messages": hello, "max_tokens": 2, "logprobs": True})
    assert answer.choices[0].finish_reason == "length"
    assert len(answer.choices[0].logprobs.content) == 2


async def test_streamed(litellm: Any, options: dict[str, Any]) -> None:
    chunks = list(litellm.completion(**options, stream=True, stream_options={"include_usage": True}))
    assert _text(chunks) == "The digit is 7."
    assert chunks[-1].usage.completion_tokens == 6
    chunks = [chunk async for chunk in await litellm.acompletion(**options, stream=True)]
    assert _text(chunks) == "The digit is 7."


async def test_a_certified_answer(litellm: Any, options: dict[str, Any]) -> None:
    """As a field and as headers; LiteLLM puts a prefix before the names of those."""
    answer = litellm.completion(**options | {"extra_body": ANSWER})
    assert answer.choices[0].message.content == "The digit is 7."
    certificate = IssuedAnswerCertificate.model_validate(answer.answer_certificate)
    assert certificate.outcome == "certified"
    headers = answer._hidden_params["additional_headers"]
    assert headers["llm_provider-smoothgate-outcome"] == "certified"
    assert float(headers["llm_provider-smoothgate-radius"]) >= RADIUS


async def test_a_certified_answer_streamed(litellm: Any, options: dict[str, Any]) -> None:
    chunks = list(litellm.completion(**options | {"extra_body": ANSWER}, stream=True))
    assert _text(chunks) == "The digit is 7."
    (issued,) = [one for chunk in chunks if (one := getattr(chunk, "answer_certificate", None))]
    assert IssuedAnswerCertificate.model_validate(issued).outcome == "certified"


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"temperature": -1}, openai.BadRequestError),
        ({"model": "openai/nobody"}, openai.NotFoundError),
    ],
)
async def test_errors(
    litellm: Any, options: dict[str, Any], fields: dict[str, Any], kind: type[Exception]
) -> None:
    for ask in (litellm.completion, litellm.acompletion):
        with pytest.raises(kind):
            await ask(**options | fields)

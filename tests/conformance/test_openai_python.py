"""OpenAI's own SDK against the service, with only `base_url` changed."""

from collections.abc import Iterator
from typing import Any

import openai
import pytest

from service.api.schemas import IssuedCertificate as Certificate
from tests.gate import FEW, Gate, image_part

pytestmark = pytest.mark.engine

MODEL = "smoothgate-demo"
EXTRA = {"smoothing": FEW}


@pytest.fixture
def client(gate: Gate) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{gate.url}/v1", api_key="unused", max_retries=0) as client:
        yield client


def _user(text: str, *names: str) -> dict[str, Any]:
    return {"role": "user", "content": [*map(image_part, names), {"type": "text", "text": text}]}


def _ask(client: openai.OpenAI, *messages: Any, **options: Any) -> Any:
    return client.chat.completions.create(
        model=MODEL, messages=list(messages), extra_body=EXTRA, **({"temperature": 0} | options)
    )


def test_whole(client: openai.OpenAI) -> None:
    answer = _ask(client, _user("What digit is shown?", "seven.png"))
    assert answer.choices[0].message.content == "The digit is 7."
    assert answer.model == MODEL
    (certificate,) = answer.certificates
    assert Certificate.model_validate(certificate).model.name == MODEL


def test_streamed(client: openai.OpenAI) -> None:
    chunks = list(_ask(client, _user("Describe the image.", "two.png"), stream=True))
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert text == "A purple 2 on a striped yellow background."
    assert chunks[-1].choices[0].finish_reason == "stop"
    carrying = [chunk for chunk in chunks if getattr(chunk, "certificates", None)]
    assert len(carrying) == 1
    Certificate.model_validate(carrying[0].certificates[0])


def test_streamed_with_usage(client: openai.OpenAI) -> None:
    chunks = list(
        _ask(
            client,
            _user("What digit is shown?", "two.png"),
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert chunks[-1].usage.completion_tokens > 0
    assert sum(bool(getattr(chunk, "certificates", None)) for chunk in chunks) == 1


def test_several_turns(client: openai.OpenAI) -> None:
    first = _user("What digit is shown?", "seven.png")
    said = _ask(client, first).choices[0].message
    answer = _ask(
        client,
        first,
        {"role": "assistant", "content": said.content},
        {"role": "user", "content": "Is it even or odd?"},
    )
    assert answer.choices[0].message.content == "7 is odd."
    assert len(answer.certificates) == 1


def test_two_images(client: openai.OpenAI) -> None:
    answer = _ask(client, _user("Which digit is larger?", "three.png", "seven.png"))
    assert answer.choices[0].message.content == "3 and 7: the second is larger."
    assert len(answer.certificates) == 2


def test_text_only_is_untouched(client: openai.OpenAI) -> None:
    answer = _ask(client, {"role": "user", "content": "Hello"})
    assert answer.choices[0].message.content == "Hello! Send me a picture of a handwritten digit."
    assert not hasattr(answer, "certificates")


def test_vllms_own_parameters_pass_through(client: openai.OpenAI) -> None:
    answer = _ask(
        client,
        _user("What digit is shown?", "seven.png"),
        logprobs=True,
        top_logprobs=2,
        n=2,
        temperature=1.0,
        max_tokens=3,
        seed=5,
    )
    assert len(answer.choices) == 2
    assert len(answer.choices[0].logprobs.content) == 3
    assert answer.choices[0].finish_reason == "length"


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]


def test_an_unknown_model_is_not_found(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="gpt-5", messages=[{"role": "user", "content": "Hello"}])
    assert caught.value.param == "model"
    assert caught.value.code == "model_not_found"


def test_vllms_refusals_keep_their_words(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="temperature"):
        client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "Hello"}], temperature=-1
        )

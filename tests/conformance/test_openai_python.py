"""OpenAI's own Python SDK against the service, with only `base_url` changed."""

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any, Literal

import openai
import pytest
import pytest_asyncio
from pydantic import BaseModel, RootModel

from smoothgate.schemas import IssuedAnswerCertificate
from smoothgate.schemas import IssuedCertificate as Certificate
from tests.conformance.conftest import ANSWER, EXTRA, MODEL, NO_SPACE, RADIUS, user
from tests.sse_data import sse_data
from tests.whole_service import data_uri

pytestmark = pytest.mark.engine


@pytest.fixture
def client(base_url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=base_url, api_key="unused", max_retries=0) as client:
        yield client


@pytest_asyncio.fixture
async def async_client(base_url: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=base_url, api_key="unused", max_retries=0) as client:
        yield client


def _request(*messages: Any, **options: Any) -> dict[str, Any]:
    return {"model": MODEL, "messages": list(messages), "temperature": 0, "extra_body": EXTRA} | options


def _ask(client: openai.OpenAI, *messages: Any, **options: Any) -> Any:
    return client.chat.completions.create(**_request(*messages, **options))


def test_whole(client: openai.OpenAI) -> None:
    answer = _ask(client, user("What digit is shown?", "seven.png"))
    assert answer.choices[0].message.content == "The digit is 7."
    assert answer.model == MODEL
    (certificate,) = answer.certificates
    assert Certificate.model_validate(certificate).model.name == MODEL


def test_streamed(client: openai.OpenAI) -> None:
    chunks = list(_ask(client, user("Describe the image.", "two.png"), stream=True))
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
            user("What digit is shown?", "two.png"),
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert chunks[-1].usage.completion_tokens > 0
    assert sum(bool(getattr(chunk, "certificates", None)) for chunk in chunks) == 1


def test_several_turns(client: openai.OpenAI) -> None:
    first = user("What digit is shown?", "seven.png")
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
    answer = _ask(client, user("Which digit is larger?", "three.png", "seven.png"))
    assert answer.choices[0].message.content == "3 and 7: the second is larger."
    assert len(answer.certificates) == 2


def test_text_only_is_untouched(client: openai.OpenAI) -> None:
    answer = _ask(client, {"role": "user", "content": "Hello"})
    assert answer.choices[0].message.content == "Hello! Send me a picture of a handwritten digit."
    assert not hasattr(answer, "certificates")


def test_vllms_own_parameters_pass_through(client: openai.OpenAI) -> None:
    answer = _ask(
        client,
        user("What digit is shown?", "seven.png"),
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


SEVEN = user("What digit is shown?", "seven.png")


def test_a_certified_answer(client: openai.OpenAI) -> None:
    answer = _ask(client, SEVEN, extra_body=ANSWER)
    assert answer.choices[0].message.content == "The digit is 7."
    certificate = IssuedAnswerCertificate.model_validate(answer.answer_certificate)
    assert certificate.outcome == "certified"
    assert certificate.radius is not None
    assert certificate.radius >= RADIUS


def test_a_certified_answer_streamed(client: openai.OpenAI) -> None:
    chunks = list(_ask(client, SEVEN, extra_body=ANSWER, stream=True))
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert text == "The digit is 7."
    (last,) = [chunk for chunk in chunks if getattr(chunk, "answer_certificate", None)]
    assert last.choices[0].finish_reason == "stop"
    certificate = IssuedAnswerCertificate.model_validate(last.answer_certificate)
    assert certificate.outcome == "certified"


def test_a_certified_answer_of_a_type(client: openai.OpenAI) -> None:
    """The closed set of choices is that of the JSON schema which the SDK makes of the type."""

    class Digit(RootModel[Literal["7", "8"]]):
        pass

    answer: Any = client.chat.completions.parse(
        **_request(SEVEN, response_format=Digit, logit_bias=NO_SPACE, extra_body=ANSWER)
    )
    assert answer.choices[0].message.parsed == Digit("7")
    certificate = IssuedAnswerCertificate.model_validate(answer.answer_certificate)
    assert (certificate.answer.form, certificate.outcome) == ("choices", "certified")


@pytest.mark.asyncio
async def test_async(async_client: openai.AsyncOpenAI) -> None:
    answer: Any = await async_client.chat.completions.create(**_request(SEVEN))
    assert answer.choices[0].message.content == "The digit is 7."
    Certificate.model_validate(answer.certificates[0])
    assert [model.id async for model in async_client.models.list()] == [MODEL]


@pytest.mark.asyncio
async def test_async_streamed(async_client: openai.AsyncOpenAI) -> None:
    stream: Any = await async_client.chat.completions.create(**_request(SEVEN, stream=True))
    chunks = [chunk async for chunk in stream]
    assert (
        "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
        == "The digit is 7."
    )
    assert sum(bool(getattr(chunk, "certificates", None)) for chunk in chunks) == 1


def test_the_helper_for_streams(client: openai.OpenAI) -> None:
    options = _request(SEVEN, stream_options={"include_usage": True})
    with client.chat.completions.stream(**options) as stream:
        events = list(stream)
        whole = stream.get_final_completion()
    assert whole.choices[0].message.content == "The digit is 7."
    assert whole.usage is not None
    assert [event.content for event in events if event.type == "content.done"] == ["The digit is 7."]
    chunks = [event.chunk for event in events if event.type == "chunk"]
    assert sum(bool(getattr(chunk, "certificates", None)) for chunk in chunks) == 1


def test_a_stream_left_early(client: openai.OpenAI) -> None:
    with _ask(client, SEVEN, stream=True) as stream:
        assert next(stream).choices[0].delta.role == "assistant"
    assert _ask(client, SEVEN).choices[0].message.content == "The digit is 7."


def test_parsed(client: openai.OpenAI) -> None:
    class Answer(BaseModel):
        digit: Literal[7, 8]

    answer = client.chat.completions.parse(**_request(SEVEN, response_format=Answer, logit_bias=NO_SPACE))
    assert answer.choices[0].message.parsed == Answer(digit=7)


def test_the_raw_response(client: openai.OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(**_request(SEVEN))
    assert raw.status_code == 200
    assert raw.request_id == raw.headers["x-request-id"]
    answer = raw.parse()
    assert answer.id == f"chatcmpl-{raw.request_id}"
    assert answer.choices[0].message.content == "The digit is 7."


def test_the_raw_stream(client: openai.OpenAI) -> None:
    options = _request(SEVEN, stream=True)
    with client.chat.completions.with_streaming_response.create(**options) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = sse_data(response.iter_lines())
    assert lines[-1] == "[DONE]"
    assert all(json.loads(line)["object"] == "chat.completion.chunk" for line in lines[:-1])


def _picture(url: str) -> dict[str, Any]:
    return {"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}


@pytest.mark.parametrize(
    ("fields", "kind", "status"),
    [
        ({"messages": []}, openai.BadRequestError, 400),
        ({"messages": [user("Hello")], "seed": "x"}, openai.BadRequestError, 400),
        ({"model": "gpt-5"}, openai.NotFoundError, 404),
        ({"messages": [user("x", *["seven.png"] * 5)]}, openai.APIStatusError, 413),
        ({"messages": [_picture("data:image/png;base64,aGVsbG8=")]}, openai.UnprocessableEntityError, 422),
        ({"messages": [_picture("https://example.com/a.png")]}, openai.UnprocessableEntityError, 422),
        ({"extra_body": {"smoothing": {"sigma": 50}}}, openai.UnprocessableEntityError, 422),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_errors_are_the_sdk_s_own(
    client: openai.OpenAI,
    fields: dict[str, Any],
    kind: type[openai.APIStatusError],
    status: int,
    stream: bool,
) -> None:
    with pytest.raises(kind) as caught:
        _ask(client, SEVEN, stream=stream, **fields)
    error = caught.value
    assert error.status_code == status
    assert error.type == "invalid_request_error"
    assert error.code
    assert error.param
    assert error.request_id


def _respond(client: openai.OpenAI, text: str, name: str, **options: Any) -> Any:
    content = [
        {"type": "input_image", "image_url": data_uri(name), "detail": "auto"},
        {"type": "input_text", "text": text},
    ]
    given = {"model": MODEL, "input": [{"role": "user", "content": content}], "temperature": 0}
    return client.responses.create(**given | {"extra_body": EXTRA} | options)


def test_a_response(client: openai.OpenAI) -> None:
    answer = _respond(client, "What digit is shown?", "seven.png")
    assert answer.output_text == "The digit is 7."
    assert answer.usage.output_tokens == 6
    Certificate.model_validate(answer.certificates[0])


def test_a_response_streamed(client: openai.OpenAI) -> None:
    events = list(_respond(client, "Describe the image.", "two.png", stream=True))
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert text == "A purple 2 on a striped yellow background."
    assert events[-1].type == "response.completed"
    assert len(events[-1].response.certificates) == 1


def test_a_response_that_is_cut_off_with_logprobs(client: openai.OpenAI) -> None:
    answer = _respond(
        client,
        "Describe the image.",
        "two.png",
        max_output_tokens=2,
        include=["message.output_text.logprobs"],
        top_logprobs=2,
    )
    assert (answer.status, answer.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    (content,) = answer.output[0].content
    assert [len(token.top_logprobs) for token in content.logprobs] == [2, 2]


def test_a_certified_response(client: openai.OpenAI) -> None:
    events = list(_respond(client, "What digit is shown?", "seven.png", extra_body=ANSWER, stream=True))
    answer = events[-1].response
    assert answer.output_text == "The digit is 7."
    certificate = IssuedAnswerCertificate.model_validate(answer.answer_certificate)
    assert certificate.outcome == "certified"

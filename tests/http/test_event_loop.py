"""No request holds up the others: whatever is large is refused, or handled away from the event loop."""

import json
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from fastapi.responses import JSONResponse

from smoothgate.http.json_body import MAX_VALUES
from tests.event_loop import cpu_between_looks
from tests.fake_vllm import FakeVllm
from tests.whole_service import Gate, data_uri

Json = dict[str, Any]

JSON = {"Content-Type": "application/json"}

LONGEST_LAG = 0.25
TEXT_LIMIT = 2**20
MIB = 2**20


def late(gate: Gate) -> float:
    """How often the event loop was late by more than `LONGEST_LAG`."""
    name = "smoothgate_event_loop_lag_seconds"
    return gate.metric(f"{name}_count") - gate.metric(f'{name}_bucket{{le="{LONGEST_LAG}"}}')


def never_late(gate: Gate, send: Callable[[], object]) -> bool:
    """Whether the loop was on time in one of ten tries: other programs may hold up the rest."""
    for _ in range(10):
        before = late(gate)
        send()
        time.sleep(0.15)
        if late(gate) == before:
            return True
    return False


def chat(**fields: str) -> bytes:
    """A chat with further fields, each the text of a JSON value."""
    hello = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 2}
    further = "".join(f", {json.dumps(name)}: {value}" for name, value in fields.items())
    return (json.dumps(hello)[:-1] + further + "}").encode()


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/chat", "/v1/certify"])
@pytest.mark.parametrize(
    "value",
    ["[" + "[]," * (4 * MIB) + "[]]", "{" + '"a":1,' * (2 * MIB) + '"a":1}', "[" + '"",' * (4 * MIB) + '""]'],
    ids=["lists", "fields", "empty texts"],
)
def test_a_body_of_very_many_values_is_refused_at_once(quick_gate: Gate, path: str, value: str) -> None:
    body = chat(tools=value)

    def send() -> None:
        response = quick_gate.http.post(path, content=body, headers=JSON)
        assert response.status_code == 413, response.text
        assert response.json()["error"]["code"] == "too_many_values"

    assert never_late(quick_gate, send)


def test_a_body_of_escaped_characters_is_refused_at_once(quick_gate: Gate) -> None:
    body = chat(user='"' + r"\n" * (30 * MIB) + '"')

    def send() -> None:
        response = quick_gate.http.post("/v1/chat/completions", content=body, headers=JSON)
        assert response.json()["error"]["code"] == "too_many_values"

    assert never_late(quick_gate, send)


def test_the_worst_body_that_is_accepted_holds_up_nobody(quick_gate: Gate, vllm: FakeVllm) -> None:
    texts = 4000
    parts = [{"type": "text", "text": "a" * (TEXT_LIMIT // 2 // texts)} for _ in range(texts)]
    call = {"name": "f", "parameters": {"enum": [0] * (MAX_VALUES - 10 * texts)}}
    picture = data_uri("seven.png")
    # Spaces between the pictures and the rest fill the body up to its limit.
    body = json.dumps(
        {
            "messages": [
                {"role": "user", "content": [{"type": "image_url", "image_url": {"url": picture}}, *parts]}
            ],
            "tools": [{"type": "function", "function": call}],
        }
    ).encode()
    body = body[:-1] + b" " * (60 * MIB) + b"}"

    def send() -> None:
        response = quick_gate.http.post("/v1/chat/completions", content=body, headers=JSON)
        assert response.status_code == 200, response.text
        assert len(response.json()["certificates"]) == 1

    assert never_late(quick_gate, send)
    assert vllm.bodies[-1]["tools"][0]["function"] == call


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat", {"message": "Hello"}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hello"}]}),
        ("/v1/certify", {"images": [data_uri("seven.png")]}),
    ],
)
def test_an_answer_is_written_off_the_loop(
    quick_gate: Gate, path: str, body: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be as long as vLLM likes."""
    threads: list[str] = []
    render = JSONResponse.render

    def noting(response: JSONResponse, content: Any) -> bytes:
        threads.append(threading.current_thread().name)
        return render(response, content)

    monkeypatch.setattr(JSONResponse, "render", noting)
    assert quick_gate.http.post(path, json=body).status_code == 200
    assert [name.startswith("off-loop") for name in threads] == [True]


def _values(share: float) -> Json:
    return {"tools": [_tool({"enum": [0] * int(share * 0.9 * MAX_VALUES)})]}


def _fields(share: float) -> Json:
    return {"chat_template_kwargs": {f"k{i}": i for i in range(int(share * 0.4 * MAX_VALUES))}}


def _schema(share: float) -> Json:
    """Objects in objects, as deep and as many as may be."""
    schema: Json = {"type": "string"}
    for _ in range(40):
        schema = {"type": "object", "properties": {"p": schema}}
    return {"tools": [_tool(schema) for _ in range(int(share * MAX_VALUES / 400))]}


def _messages(*contents: Any) -> Json:
    return {"messages": [{"role": "user", "content": content} for content in contents]}


def _long_text(share: float) -> Json:
    return _messages("\u20ac" * int(share * 0.9 * TEXT_LIMIT))


def _placeholders(share: float) -> Json:
    return _messages("<image>" * int(share * 0.9 * TEXT_LIMIT / len("<image>")))


def _many_messages(share: float) -> Json:
    return _messages(*["<image>"] * int(share * MAX_VALUES / 8))


def _many_parts(share: float) -> Json:
    return _messages([{"type": "text", "text": "a"}] * int(share * MAX_VALUES / 8))


def _pictures(share: float) -> Json:
    """As many as may be, each with much white space in its base64."""
    uri = data_uri("seven.png")
    picture = {"type": "image_url", "image_url": {"url": uri + " " * int(share * 12 * MIB)}}
    return _messages([picture] * int(share * 4))


def _tool(parameters: Json) -> Json:
    return {"type": "function", "function": {"name": "f", "parameters": parameters}}


SHAPES = (_values, _fields, _schema, _long_text, _placeholders, _many_messages, _many_parts, _pictures)


def test_no_accepted_body_takes_the_loop_for_long(quick_gate: Gate) -> None:
    """Each shape in a large body, then the two that cost the most in one.

    This counts the loop's own work. The test above also sees what other threads do under Python's lock.
    """

    def cost(body: Json) -> float:
        content = json.dumps(_messages("Hello") | {"max_tokens": 2} | body).encode()
        with cpu_between_looks() as seconds:
            response = quick_gate.http.post("/v1/chat/completions", content=content, headers=JSON)
        assert response.status_code == 200, response.text[:500]
        return max(seconds)

    costs = {shape: cost(shape(1.0)) for shape in SHAPES}
    one, two = sorted(costs, key=lambda shape: costs[shape])[-2:]
    both = one(0.5) | two(0.5)
    both["messages"] = (
        one(0.5).get("messages", []) + two(0.5).get("messages", []) or _messages("Hi")["messages"]
    )
    worst = {shape.__name__: seconds for shape, seconds in costs.items()} | {"both": cost(both)}
    assert max(worst.values()) < LONGEST_LAG, worst


def test_what_takes_the_loop_for_long_is_seen(quick_gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    def busy() -> dict[str, str]:
        began = time.thread_time()
        while time.thread_time() < began + LONGEST_LAG:
            pass
        return {}

    monkeypatch.setattr(quick_gate.service.health, "beyond_repair", busy)
    with cpu_between_looks() as seconds:
        assert quick_gate.http.get("/health/live").status_code == 200
    assert max(seconds) >= LONGEST_LAG


def test_a_text_is_limited_and_pictures_do_not_count(quick_gate: Gate) -> None:
    text = "a" * TEXT_LIMIT
    messages = [{"role": "user", "content": [{"type": "text", "text": text}]}]
    response = quick_gate.http.post("/v1/chat/completions", json={"messages": messages})
    assert response.status_code == 413
    assert response.json()["error"] == {
        "message": "The text of the request is longer than 1048576 characters.",
        "type": "invalid_request_error",
        "param": "messages",
        "code": "text_too_large",
    }


def test_commas_in_a_text_are_no_values(quick_gate: Gate) -> None:
    text = 'a, \\ "b", [{,' * (MAX_VALUES // 4)
    assert text.count(",") > MAX_VALUES / 2
    assert quick_gate.ask(text).status_code == 200

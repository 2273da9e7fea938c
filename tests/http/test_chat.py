"""`/v1/chat` and `/v1/certify`: what the demo model answers, and what comes with an answer."""

import json
from typing import Any

import httpx
import pytest

from smoothgate.bundled import DEMO
from smoothgate.psm.checkpoint import PSM
from smoothgate.schemas import IssuedCertificate as Certificate
from tests.fake_vllm import TEXT, FakeVllm
from tests.sse_data import sse_data
from tests.whole_service import FEW, SAMPLES, Gate, data_uri, image_part


def _certificates(response: httpx.Response) -> list[Certificate]:
    return [Certificate.model_validate(c) for c in response.json()["certificates"]]


@pytest.mark.engine
@pytest.mark.parametrize(
    ("name", "question", "answer"),
    [
        ("seven.png", "What digit is shown?", "The digit is 7."),
        ("seven.png", "What color is the digit?", "The digit is blue."),
        ("seven.png", "What color is the background?", "The background is yellow."),
        ("seven.png", "Is the digit even or odd?", "7 is odd."),
        ("two.png", "Describe the image.", "A purple 2 on a striped yellow background."),
        ("plain-five.png", "What digit is shown?", "The digit is 5."),
    ],
)
def test_the_sample_pictures_are_answered_right(gate: Gate, name: str, question: str, answer: str) -> None:
    response = gate.ask(question, name)
    assert response.status_code == 200, response.text
    assert response.json()["answer"] == answer


@pytest.mark.engine
def test_less_noise_leaves_fainter_things_to_be_seen(gate: Gate) -> None:
    """The stripes of this picture, a lighter black on black, are lost at the default sigma of 0.5."""
    response = gate.ask("Describe the image.", "three.png", smoothing=FEW | {"sigma": 0.25})
    assert response.json()["answer"] == "A yellow 3 on a striped black background."


@pytest.mark.engine
@pytest.mark.parametrize(("name", "digit"), [("seven.png", 7), ("three.png", 3), ("two.png", 2)])
def test_the_default_budget_certifies_the_sample_pictures_at_sigma_a_half(
    gate: Gate, name: str, digit: int
) -> None:
    response = gate.ask("What digit is shown?", name, smoothing={})
    assert response.json()["answer"] == f"The digit is {digit}."
    (certificate,) = _certificates(response)
    assert certificate.noise.sigma == 0.5
    assert certificate.model.psm_digest == PSM.load(DEMO.psm).digest
    assert certificate.outcome == "bounded"
    assert certificate.bounds[0].eps == 0.25
    assert certificate.chance is not None
    assert certificate.bounds[0].fcsb > certificate.chance.p95 + 0.2


def test_an_answer_comes_with_its_certificate(quick_gate: Gate) -> None:
    smoothing = FEW | {"sigma": 0.25, "eps": [0.05, 0.1]}
    response = quick_gate.ask("What digit is shown?", "seven.png", smoothing=smoothing)
    body = response.json()
    assert body["model"] == "smoothgate-demo"
    assert response.headers["x-request-id"] == body["id"]
    assert body["usage"]["completion_tokens"] > 0
    assert body["timings"]["total"] >= body["timings"]["engine"] > 0
    assert response.headers["Smoothgate-Outcome"] == "bounded"
    (certificate,) = _certificates(response)
    assert certificate.noise.sigma == 0.25
    assert (certificate.noise.n_select, certificate.noise.n_certify) == (64, 256)
    assert [bound.eps for bound in certificate.bounds] == [0.05, 0.1]
    assert certificate.outcome == "bounded"
    assert certificate.chance is not None
    assert certificate.bounds[0].fcsb > certificate.chance.p95
    assert certificate.score_lower < certificate.score_estimate <= 1
    # 192 pixels squeezed to 48: the resize shrinks l2 distances by about the factor of the sides.
    assert certificate.image.resize_norm == pytest.approx(0.25, rel=0.05)
    assert certificate.radius.value is not None
    assert certificate.radius.upload == pytest.approx(certificate.radius.value * 4, rel=0.05)


@pytest.mark.engine
def test_two_pictures(gate: Gate) -> None:
    response = gate.ask("What is the sum of the digits?", "seven.png", "three.png")
    assert response.json()["answer"] == "7 + 3 = 10."
    certificates = _certificates(response)
    assert len(certificates) == 2
    assert certificates[0].image.sha256 != certificates[1].image.sha256
    # alpha is shared.
    assert sum(c.alpha for c in certificates) <= 0.001


@pytest.mark.engine
def test_a_form_with_a_file(gate: Gate) -> None:
    fields = {"message": "What digit is shown?", "smoothing": json.dumps(FEW), "temperature": "0"}
    files = [("image", ("cat.png", (SAMPLES / "three.png").read_bytes(), "image/png"))]
    response = gate.http.post("/v1/chat", data=fields, files=files)
    assert response.json()["answer"] == "The digit is 3."
    assert len(_certificates(response)) == 1


@pytest.mark.engine
def test_a_chat_of_several_turns(gate: Gate) -> None:
    history: list[dict[str, Any]] = [
        {
            "role": "user",
            "content": [image_part("seven.png"), {"type": "text", "text": "What digit is shown?"}],
        },
        {"role": "assistant", "content": "The digit is 7."},
    ]
    response = gate.ask("And its color?", history=history)
    assert response.json()["answer"] == "The digit is blue."
    assert len(_certificates(response)) == 1


@pytest.mark.engine
def test_text_alone_passes_straight_through(gate: Gate) -> None:
    response = gate.ask("Hello")
    assert response.json()["answer"] == "Hello! Send me a picture of a handwritten digit."
    assert response.json()["certificates"] == []


def test_a_stream_ends_with_certificates_and_figures(quick_gate: Gate) -> None:
    body = {
        "message": "What digit is shown?",
        "images": [data_uri("seven.png")],
        "stream": True,
    }
    with quick_gate.http.stream("POST", "/v1/chat", json=body | {"temperature": 0}) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = sse_data(response.iter_lines())
    assert lines[-1] == "[DONE]"
    events = [json.loads(line) for line in lines[:-1]]
    assert "".join(event.get("delta", "") for event in events) == TEXT
    (certificates,) = (event["certificates"] for event in events if "certificates" in event)
    assert Certificate.model_validate(certificates[0]).image.width == 192
    assert events[-1]["usage"]["completion_tokens"] > 0
    assert events[-1]["timings"]["certify"] > 0


def test_certify_asks_no_language_model(quick_gate: Gate, vllm: FakeVllm) -> None:
    response = quick_gate.http.post("/v1/certify", json={"images": [data_uri("seven.png")]})
    assert set(response.json()) == {"model", "certificates"}
    assert len(_certificates(response)) == 1
    form = quick_gate.http.post("/v1/certify", files={"image": (SAMPLES / "seven.png").read_bytes()})
    assert _certificates(form)[0].image.sha256 == _certificates(response)[0].image.sha256
    assert vllm.bodies == []


def test_a_target_ends_sampling_early(quick_gate: Gate) -> None:
    easy = {"n_certify": 8000, "target": {"cosine": 0.55, "eps": 0.01}}
    (certificate,) = _certificates(
        quick_gate.http.post("/v1/certify", json={"images": [data_uri("seven.png")], "smoothing": easy})
    )
    assert certificate.stop_reason == "certified"
    assert certificate.noise.n_certify < 4000
    assert certificate.target is not None
    assert certificate.outcome == "certified"


@pytest.mark.engine
def test_smoothing_off_gives_the_plain_model_and_no_certificate(gate: Gate) -> None:
    response = gate.ask("What digit is shown?", "seven.png", smoothing={"mode": "off"})
    assert response.json()["answer"] == "The digit is 7."
    assert response.json()["certificates"] == []


def test_smoothing_off_needs_the_operators_leave(quick_gate: Gate) -> None:
    response = quick_gate.ask("What digit is shown?", "seven.png", smoothing={"mode": "off"})
    assert response.status_code == 422
    assert response.json()["error"]["param"] == "smoothing.mode"


@pytest.mark.engine
def test_a_literal_placeholder_is_only_text(gate: Gate) -> None:
    """`<image>` in a text must not open a place for visual tokens, nor take the picture's own."""
    plain = gate.ask("What digit is shown?", "seven.png").json()
    smuggled = gate.ask("<image> What digit is shown?", "seven.png")
    assert smuggled.status_code == 200
    # One picture's worth of visual tokens, and the placeholder spelt out as text.
    extra = smuggled.json()["usage"]["prompt_tokens"] - plain["usage"]["prompt_tokens"]
    assert 0 < extra < 36
    assert gate.ask("<image>").status_code == 200

"""The bundled photographs model through the whole service, with a real vLLM."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from smoothgate.bundled import PHOTOS
from smoothgate.certify.answer_certificate import AnswerCertificate
from smoothgate.settings import Settings
from smoothgate.vision.png import png_data_uri
from tests.whole_service import Gate, opened

pytestmark = [pytest.mark.engine, pytest.mark.long]

ANSWER = {
    "certify": "answer",
    "sigma": 0.25,
    "target": {"eps": 0.25},
    "answer": {"choices": list(PHOTOS.choices)},
}


@pytest.fixture(scope="module")
def photos_gate() -> Iterator[Gate]:
    settings = Settings(_env_file=None, model="photos", engine_max_model_len=1024)
    with opened(settings) as gate:
        gate.wait_ready()
        yield gate


def _image(sample: str) -> str:
    return png_data_uri((PHOTOS.samples / f"{sample}.png").read_bytes())


def _ask(gate: Gate, question: str, *samples: str, **fields: Any) -> Any:
    answer = gate.ask(question, images=[_image(sample) for sample in samples], **fields)
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.mark.parametrize(
    ("sample", "noun", "kind", "bag"),
    [
        ("sneaker", "a sneaker", "Footwear.", "No."),
        ("bag", "a bag", "An accessory.", "Yes."),
        ("dress", "a dress", "A garment.", "No."),
        ("coat", "a coat", "A garment.", "No."),
    ],
)
def test_each_sample_gets_the_right_answer_to_each_question(
    photos_gate: Gate, sample: str, noun: str, kind: str, bag: str
) -> None:
    what, which_kind, is_bag, describe = PHOTOS.questions
    assert _ask(photos_gate, what, sample)["answer"] == f"A photo of {noun}."
    assert _ask(photos_gate, which_kind, sample)["answer"] == kind
    assert _ask(photos_gate, is_bag, sample)["answer"] == bag
    assert _ask(photos_gate, describe, sample)["answer"].startswith(f"The photo shows {noun}, which is ")


def test_two_photographs_are_told_apart(photos_gate: Gate) -> None:
    answered = _ask(photos_gate, "What do the pictures show?", "sneaker", "bag")
    assert answered["answer"] == "A sneaker and a bag."
    assert len(answered["answer_certificate"]["images"]) == 2


def test_an_answer_about_a_photograph_is_certified(photos_gate: Gate) -> None:
    answered = _ask(photos_gate, "What is shown?", "sneaker", smoothing=ANSWER)
    issued = answered["answer_certificate"]
    assert answered["answer"] == "A photo of a sneaker."
    assert issued.pop("jws")
    certificate = AnswerCertificate.model_validate_json(json.dumps(issued))
    assert certificate.outcome == "certified"
    assert certificate.radius is not None
    assert certificate.radius >= 0.25


def test_an_answer_is_certified_by_default_and_a_bound_that_says_nothing_is_refused(
    photos_gate: Gate,
) -> None:
    """Unrelated pictures of one class have nearly the same features."""
    settings = photos_gate.settings
    assert settings.certify == "answer"
    asked = photos_gate.http.get("/v1/models").json()
    assert asked["data"][0]["id"] == PHOTOS.served_name
    refused = photos_gate.http.post("/v1/certify", json={"images": [_image("sneaker")]})
    assert (refused.status_code, refused.json()["error"]["code"]) == (422, "budget_too_small")

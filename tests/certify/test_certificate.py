import json

import pytest
from pydantic import ValidationError

from smoothgate.certify.certificate import (
    ASSUMPTIONS,
    AnswerRecord,
    Binding,
    Certificate,
    CertifiedImage,
    Chance,
    NoiseRecord,
    Question,
)
from smoothgate.certify.statement import Target

from .certificates import certificate, parts, statement


def test_a_certificate_repeats_its_statement() -> None:
    stated = statement(target=Target(0.5, 0.5))
    made = certificate(statement=stated, stop_reason="certified")
    assert made.version == 2
    assert made.alpha == stated.terms.alpha
    assert made.score_lower == stated.score_lower
    assert [bound.fcsb for bound in made.bounds] == [point.value for point in stated.points]
    assert [bound.eps for bound in made.curve] == [point.eps for point in stated.curve]
    assert made.radius.value == stated.radius
    assert made.served == stated.served == "layer_cake"
    assert made.outcome == "certified"
    assert made.target is not None
    assert made.target.fcsb == stated.target_bound
    assert made.assumptions == ASSUMPTIONS


def test_the_radius_in_upload_space_is_divided_by_the_norm_of_the_resize() -> None:
    made = certificate()
    assert made.radius.value is not None
    assert made.radius.upload == pytest.approx(made.radius.value / 0.25)
    assert made.radius.upload is not None
    assert made.radius.upload <= made.radius.value / 0.25
    unknown = parts()["image"].model_copy(update={"resize_norm": None})
    assert certificate(image=unknown).radius.upload is None


def test_the_radius_in_upload_space_is_that_of_what_the_file_holds() -> None:
    image, made = parts()["image"], certificate()
    assert made.radius.value is not None
    grey = certificate(image=image.model_copy(update={"upload_space": "decoded grey"}))
    assert grey.radius.upload == pytest.approx(made.radius.value / 0.25 / 3**0.5)
    reason = "the picture has a palette"
    palette = image.model_copy(update={"upload_space": None, "upload_reason": reason})
    assert certificate(image=palette).radius.upload is None
    assert certificate(image=palette).image.upload_reason == reason


def test_what_it_is_bound_to_is_part_of_it() -> None:
    answer = AnswerRecord(sha256="12" * 32)
    question = Question(messages_sha256="34" * 32, decoding_sha256="56" * 32)
    bound = certificate().bound_to(Binding("id", "78" * 32, question, answer))
    assert (bound.request_id, bound.question, bound.answer) == ("id", question, answer)
    assert bound.model.language_model_digest == "78" * 32
    assert not answer.certified
    assert bound.bound_as(certificate()) == certificate()


def test_a_sigma_that_was_not_calibrated_makes_it_vacuous() -> None:
    made = certificate(statement=statement(chance_cosine=None), chance=None)
    assert (made.outcome, made.vacuous_because, made.chance) == ("vacuous", "not calibrated", None)
    low = certificate(statement=statement((5, 5)))
    assert (low.outcome, low.vacuous_because) == ("vacuous", "not above chance")


def test_a_missing_radius_is_null() -> None:
    made = certificate(statement=statement((5, 5)))
    assert made.outcome == "vacuous"
    assert made.radius.value is None
    assert made.radius.upload is None
    assert json.loads(made.model_dump_json())["radius"]["value"] is None


def test_json_can_be_read_back_without_loss() -> None:
    made = certificate(statement=statement(target=Target(0.9, 0.5)))
    text = made.model_dump_json()
    assert Certificate.model_validate_json(text) == made
    assert Certificate.model_validate_json(text).model_dump_json() == text
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def test_a_certificate_is_immutable() -> None:
    made = certificate()
    with pytest.raises(ValidationError, match="frozen"):
        made.alpha = 0.5  # type: ignore[misc]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("alpha", 0.0),
        ("alpha", 2.0),
        ("score_lower", 1.5),
        ("score_lower", None),
        ("version", 1),
        ("version", 3),
        ("outcome", "perhaps"),
        ("stop_reason", "bored"),
        ("surprise", 1),
        ("bounds", []),
        ("image.sha256", "xyz"),
        ("noise.sigma", 0.0),
        ("noise.seed", "not hex"),
        ("radius.value", -1.0),
        ("chance.p95", 1.5),
    ],
)
def test_invalid_fields_are_refused(path: str, value: object) -> None:
    data = json.loads(certificate().model_dump_json())
    *outer, name = path.split(".")
    inner = data
    for key in outer:
        inner = inner[key]
    inner[name] = value
    with pytest.raises(ValidationError, match=name):
        Certificate.model_validate_json(json.dumps(data))


def test_nan_and_infinity_are_refused() -> None:
    text = certificate().model_dump_json()
    lower = json.loads(text)["score_lower"]
    for bad in ("NaN", "Infinity", "1e999"):
        with pytest.raises(ValidationError):
            Certificate.model_validate_json(text.replace(f'"score_lower":{lower}', f'"score_lower":{bad}'))


def test_noise_and_chance_must_be_those_of_the_statement() -> None:
    noise = parts()["noise"]
    assert isinstance(noise, NoiseRecord)
    for change in (
        {"noise": noise.model_copy(update={"sigma": 0.65})},
        {"noise": noise.model_copy(update={"n_certify": 512})},
        {"chance": Chance(mean=0.0, p95=0.0, pairs=300)},
        {"chance": None},
    ):
        with pytest.raises(ValueError, match="not the"):
            certificate(**change)


def test_every_field_is_described_in_the_schema() -> None:
    schema = Certificate.model_json_schema()
    for model in (schema, *schema["$defs"].values()):
        assert model["additionalProperties"] is False
        for name, field in model["properties"].items():
            assert field.get("description"), f"{model['title']}.{name}"
    assert "sha256" in CertifiedImage.model_fields

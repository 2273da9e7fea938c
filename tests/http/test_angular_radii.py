"""The angular radii of a certificate, as clients ask for them and get them."""

from __future__ import annotations

import io
import math
from typing import Any

import pytest
from PIL import Image

from smoothgate.certify.alpha import COSINES
from smoothgate.certify.certificate import Certificate
from smoothgate.certify.consistency import contradictions
from tests.quick_gate import OpenGate
from tests.whole_service import SAMPLES, Gate, data_uri

# A cosine that the bound does not reach at this distance with so few samples, and that the angle reaches.
BY_ANGLE: dict[str, Any] = {"n_certify": 256, "target": {"cosine": 0.7, "eps": 0.5}}


def _certified(gate: Gate, **smoothing: Any) -> dict[str, Any]:
    body = {"images": [data_uri("seven.png")], "smoothing": smoothing}
    response = gate.http.post("/v1/certify", json=body)
    assert response.status_code == 200, response.text
    certificate: dict[str, Any] = response.json()["certificates"][0]
    return certificate


def test_a_certificate_has_a_radius_for_every_cosine_of_the_service(quick_gate: Gate) -> None:
    certificate = _certified(quick_gate)
    assert tuple(each["cosine"] for each in certificate["angular"]) == COSINES
    radii = [each["radius"] or 0.0 for each in certificate["angular"]]
    assert radii == sorted(radii, reverse=True)
    assert certificate["radius"]["angular"] == radii[0] == certificate["radius"]["value"] > 0.0
    assert certificate["served"] == "angular"


def test_a_client_names_cosines(quick_gate: Gate) -> None:
    certificate = _certified(quick_gate, cosines=[0.6, 0.1, 0.6], cosine_threshold=0.3)
    assert [each["cosine"] for each in certificate["angular"]] == [0.1, 0.3, 0.6]
    assert certificate["radius"]["angular"] == certificate["angular"][1]["radius"]


@pytest.mark.parametrize(
    ("kind", "factor"), [("RGB", 1.0), ("L", math.sqrt(3)), ("P", None), ("RGBA", None)], ids=str
)
def test_each_radius_is_stated_in_upload_space_where_there_is_a_factor(
    quick_gate: Gate, kind: str, factor: float | None
) -> None:
    file = io.BytesIO()
    picture = Image.open(SAMPLES / "seven.png").resize((96, 96)).convert(kind)
    if kind == "RGBA":
        picture.putalpha(128)
    picture.save(file, "PNG")
    response = quick_gate.http.post("/v1/certify", files={"image": file.getvalue()})
    certificate = response.json()["certificates"][0]
    norm = certificate["image"]["resize_norm"]
    radii = [each for each in certificate["angular"] if each["radius"] is not None]
    assert radii
    for each in certificate["angular"]:
        if factor is None or each["radius"] is None:
            assert each["upload"] is None
        else:
            assert each["upload"] == pytest.approx(each["radius"] / (norm * factor))
    if factor is not None:
        assert certificate["radius"]["upload"] == radii[0]["upload"]
    del certificate["jws"]
    assert not list(contradictions(Certificate.model_validate(certificate)))
    certificate["angular"][0]["upload"] = 1000.0
    found = dict(contradictions(Certificate.model_validate(certificate)))
    assert set(found) == {"angular[0].upload"}
    for each in certificate["angular"]:  # as earlier releases made them
        del each["upload"]
    assert not list(contradictions(Certificate.model_validate(certificate)))


@pytest.mark.parametrize("cosines", [[], [1.0], [-0.1], ["x"], [0.5] * 33])
def test_bad_cosines_are_refused(quick_gate: Gate, cosines: list[Any]) -> None:
    body = {"images": [data_uri("seven.png")], "smoothing": {"cosines": cosines}}
    response = quick_gate.http.post("/v1/certify", json=body)
    assert response.status_code == 400
    assert response.json()["error"]["param"].startswith("smoothing.cosines")


def test_a_target_that_only_the_angle_reaches_is_met_early(quick_gate: Gate) -> None:
    certificate = _certified(quick_gate, **BY_ANGLE)
    target = certificate["target"]
    assert certificate["outcome"] == certificate["stop_reason"] == "certified"
    assert certificate["noise"]["n_certify"] < 256
    assert target["fcsb"] < 0.7
    assert target["angular"] >= 0.5
    (only,) = certificate["angular"]
    assert (only["cosine"], only["radius"]) == (0.7, target["angular"])


def test_an_enforced_policy_is_met_by_the_angle(open_gate: OpenGate) -> None:
    gate = open_gate(policy="enforce", policy_cosine=0.7, policy_eps=0.5, n_certify=256)
    response = gate.ask("What digit is shown?", images=[data_uri("seven.png")])
    assert response.status_code == 200, response.text
    assert response.json()["certificates"][0]["target"]["fcsb"] < 0.7


def test_a_single_selection_sample_is_enough(quick_gate: Gate) -> None:
    answer = quick_gate.ask("What digit is shown?", "seven.png", smoothing={"n_select": 1})
    assert answer.status_code == 200, answer.text

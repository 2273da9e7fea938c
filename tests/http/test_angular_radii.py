"""The angular radii of a certificate, as clients ask for them and get them."""

from __future__ import annotations

from typing import Any

import pytest

from smoothgate.certify.alpha import COSINES
from tests.quick_gate import OpenGate
from tests.whole_service import Gate, data_uri

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
    assert certificate["angular"] == [{"cosine": 0.7, "radius": target["angular"]}]


def test_an_enforced_policy_is_met_by_the_angle(open_gate: OpenGate) -> None:
    gate = open_gate(policy="enforce", policy_cosine=0.7, policy_eps=0.5, n_certify=256)
    response = gate.ask("What digit is shown?", images=[data_uri("seven.png")])
    assert response.status_code == 200, response.text
    assert response.json()["certificates"][0]["target"]["fcsb"] < 0.7


def test_a_single_selection_sample_is_enough(quick_gate: Gate) -> None:
    answer = quick_gate.ask("What digit is shown?", "seven.png", smoothing={"n_select": 1})
    assert answer.status_code == 200, answer.text

"""Asking about a picture again, on whatever terms, draws the same noise: no certificate is a lucky one."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from tests.quick_gate import OpenGate
from tests.whole_service import Gate, data_uri

BASE: dict[str, Any] = {"n_select": 16, "n_certify": 64, "alpha": 0.001, "eps": [0.1]}


def _certificates(gate: Gate, *names: str, **smoothing: Any) -> list[dict[str, Any]]:
    body = {"images": [data_uri(name) for name in names], "smoothing": BASE | smoothing}
    response = gate.http.post("/v1/certify", json=body)
    assert response.status_code == 200, response.text
    issued: list[dict[str, Any]] = response.json()["certificates"]
    return issued


def _scores(folder: Path) -> list[list[float]]:
    """The certification scores of all certificates in a store, in the order issued."""
    lines = (folder / "certificates.jsonl").read_text().splitlines()
    return [json.loads(line)["certification_scores"] for line in lines]


OTHER_TERMS: list[dict[str, Any]] = [
    *({"eps": [0.1 + 1e-9 * k]} for k in (1, 2)),
    {"alpha": 0.001 * (1 - 1e-9)},
    {"n_certify": 65},
    {"n_certify": 128},
    {"cosine_threshold": 0.6},
    {"target": {"cosine": 0.55, "eps": 0.01}},
]


def test_other_terms_score_a_prefix_of_the_same_samples(open_gate: OpenGate, tmp_path: Path) -> None:
    gate = open_gate(store=tmp_path)
    (first,) = _certificates(gate, "seven.png")
    for terms in OTHER_TERMS:
        (other,) = _certificates(gate, "seven.png", **terms)
        assert other["noise"]["seed"] == first["noise"]["seed"], terms
    before, *others = _scores(tmp_path)
    for terms, after in zip(OTHER_TERMS, others, strict=True):
        common = min(len(before), len(after))
        assert common >= 16
        np.testing.assert_allclose(after[:common], before[:common], atol=1e-5, err_msg=str(terms))


def test_other_pictures_of_a_request_do_not_move_the_noise(open_gate: OpenGate, tmp_path: Path) -> None:
    gate = open_gate(store=tmp_path)
    _certificates(gate, "seven.png")
    _certificates(gate, "three.png", "seven.png")
    alone, _, beside = _scores(tmp_path)
    np.testing.assert_allclose(beside, alone, atol=1e-5)


def test_another_sigma_draws_the_same_normal_numbers(open_gate: OpenGate, tmp_path: Path) -> None:
    gate = open_gate(store=tmp_path, sigma=0.5)
    _certificates(gate, "seven.png")
    _certificates(gate, "seven.png", sigma=0.5 + 1e-9)
    before, after = _scores(tmp_path)
    np.testing.assert_allclose(after, before, atol=1e-5)


def test_another_number_of_selection_samples_does_not_move_the_certification_samples(
    quick_gate: Gate,
) -> None:
    (first,) = _certificates(quick_gate, "seven.png")
    (second,) = _certificates(quick_gate, "seven.png", n_select=17)
    assert first["noise"]["streams"] == second["noise"]["streams"] == 2
    assert first["noise"]["seed"] == second["noise"]["seed"]


def test_equal_pictures_of_one_request_have_noise_of_their_own(quick_gate: Gate) -> None:
    one, two = _certificates(quick_gate, "seven.png", "seven.png")
    assert one["noise"]["seed"] != two["noise"]["seed"]
    again = _certificates(quick_gate, "three.png", "seven.png", "seven.png")
    assert [each["noise"]["seed"] for each in again[1:]] == [one["noise"]["seed"], two["noise"]["seed"]]


def test_other_pictures_have_other_noise(quick_gate: Gate) -> None:
    one, two = _certificates(quick_gate, "seven.png", "three.png")
    assert one["noise"]["seed"] != two["noise"]["seed"]


def test_replicas_with_one_secret_agree_and_another_secret_differs(
    open_gate: OpenGate, tmp_path: Path
) -> None:
    secrets = {name: tmp_path / name for name in ("ours", "theirs")}
    for name, file in secrets.items():
        file.write_text(f"{name:=>64}\n")
    stores = [tmp_path / str(number) for number in range(3)]
    seeds = []
    for store, secret in zip(stores, ("ours", "ours", "theirs"), strict=True):
        gate = open_gate(store=store, noise_secret_file=secrets[secret])
        (certificate,) = _certificates(gate, "seven.png")
        seeds.append(certificate["noise"]["seed"])
    assert seeds[0] == seeds[1]
    assert seeds[0] != seeds[2]
    one, two, other = (_scores(store)[0] for store in stores)
    np.testing.assert_allclose(two, one, atol=1e-5)
    assert not np.allclose(other, one, atol=1e-5)

"""What the service says of itself, and the certificates that it keeps."""

import json
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families
from typer.testing import CliRunner

from smoothgate import __version__
from smoothgate.bundled import DEMO
from smoothgate.cli.main import app
from smoothgate.gate import accounts
from tests.quick_gate import OpenGate
from tests.whole_service import Gate


@pytest.fixture
def certified(quick_gate: Gate) -> dict[str, Any]:
    """The record of the model in a certificate."""
    answer: dict[str, Any] = quick_gate.ask("What digit?", "seven.png").json()
    record: dict[str, Any] = answer["certificates"][0]["model"]
    return record


def test_version_and_metric_carry_the_digests_of_certificates(
    quick_gate: Gate, certified: dict[str, Any]
) -> None:
    said = quick_gate.http.get("/v1/version").json()
    assert said == {
        "version": __version__,
        "model": DEMO.served_name,
        "digests": {
            "model": certified["digest"],
            "psm": certified["psm_digest"],
            "language_model": certified["language_model_digest"],
        },
    }
    families = text_string_to_metric_families(quick_gate.http.get("/metrics").text)
    ((build,),) = [family.samples for family in families if family.name == "smoothgate_build_info"]
    assert (build.name, build.value) == ("smoothgate_build_info", 1)
    assert build.labels == {
        "version": __version__,
        "model": DEMO.served_name,
        **{f"{name}_digest": value for name, value in said["digests"].items()},
    }


def test_the_model_by_its_name_has_digests_terms_and_limits(
    quick_gate: Gate, certified: dict[str, Any]
) -> None:
    with openai.OpenAI(base_url=f"{quick_gate.url}/v1", api_key="unused") as client:
        card: Any = client.models.retrieve(DEMO.served_name)
    own = card.smoothgate
    assert own["digests"]["model"] == certified["digest"]
    assert own["defaults"]["n_certify"] == quick_gate.settings.n_certify
    assert own["defaults"]["eps"] == list(quick_gate.settings.eps)
    assert own["limits"]["max_images"] == quick_gate.settings.max_images
    assert own["limits"]["sigma_max"] == quick_gate.settings.sigma_max


def test_anthropics_clients_read_the_models_too(quick_gate: Gate) -> None:
    with anthropic.Anthropic(base_url=quick_gate.url, api_key="unused") as client:
        (listed,) = client.models.list()
        assert (listed.id, listed.type, listed.display_name) == (DEMO.served_name, "model", DEMO.served_name)
        assert client.models.retrieve(DEMO.served_name).created_at == listed.created_at


def test_kept_certificates_come_back_as_they_were_handed_out(open_gate: OpenGate, tmp_path: Path) -> None:
    gate = open_gate(store=tmp_path / "store")
    answer = gate.ask("What digit?", "seven.png", "two.png")
    kept = gate.http.get(f"/v1/certificates/{answer.headers['X-Request-Id']}")
    assert kept.json()["certificates"] == answer.json()["certificates"]
    # `verify` reads it.
    (tmp_path / "kept.json").write_text(kept.text)
    (tmp_path / "keys.json").write_text(gate.http.get("/.well-known/jwks.json").text)
    files = [str(tmp_path / "kept.json"), "--keys", str(tmp_path / "keys.json")]
    result = CliRunner().invoke(app, ["verify", *files, "--signature-only"])
    assert result.exit_code == 0, result.output
    assert "Certificate 2 of 2" in result.output


def test_a_certified_answer_is_kept_too(open_gate: OpenGate, tmp_path: Path) -> None:
    gate = open_gate(store=tmp_path)
    wish = {"certify": "answer", "sigma": 0.5, "target": {"eps": 0.2}}
    answer = gate.ask("What digit?", "seven.png", smoothing=wish).json()
    (kept,) = gate.http.get(f"/v1/certificates/{answer['id']}").json()["certificates"]
    assert kept == answer["answer_certificate"]


def test_certificates_are_shown_to_their_own_client(open_gate: OpenGate, tmp_path: Path) -> None:
    alice, key = accounts.new("alice", requests_per_minute=None, samples_per_minute=None)
    bob, other = accounts.new("bob", requests_per_minute=None, samples_per_minute=None)
    accounts.save(tmp_path / "accounts.json", [alice, bob])
    gate = open_gate(accounts=tmp_path / "accounts.json", store=tmp_path)
    gate.http.headers["Authorization"] = f"Bearer {key}"
    path = f"/v1/certificates/{gate.ask('What digit?', 'seven.png').json()['id']}"
    assert gate.http.get(path).status_code == 200
    refused = gate.http.get(path, headers={"Authorization": f"Bearer {other}"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "certificate_not_found")


def test_without_a_store_there_are_none(quick_gate: Gate) -> None:
    refused = quick_gate.http.get("/v1/certificates/abc")
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "no_store")
    assert json.loads(quick_gate.http.get("/v1/certificates/schema").text)["title"] == "IssuedCertificate"

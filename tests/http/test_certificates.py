"""What is handed out can be checked, and a policy decides before the language model is asked."""

import asyncio
import base64
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from smoothgate.certify.signing import PublicKey, SigningKey, verify
from smoothgate.cli.main import app
from smoothgate.errors import SmoothgateError
from smoothgate.gate.build import build
from smoothgate.gate.issuing import Issuer
from smoothgate.psm.unit_encoder import UnitEncoder
from smoothgate.schemas import IssuedCertificate
from smoothgate.settings import Settings
from smoothgate.verification import answered, check, read
from tests.fake_vllm import TEXT, FakeVllm
from tests.quick_gate import ENOUGH, SETTINGS, TARGET, OpenGate, odd_picture, quick_smoother
from tests.whole_service import SAMPLES, Gate, data_uri, image_part

# A sample picture meets it; the odd picture does not.
POLICY: dict[str, Any] = {"policy_cosine": TARGET["cosine"], "policy_eps": TARGET["eps"], "n_certify": ENOUGH}
ODD = "data:image/png;base64," + base64.b64encode(odd_picture()).decode()


def test_an_answer_is_confirmed_by_the_command(quick_gate: Gate, tmp_path: Path) -> None:
    answer = tmp_path / "answer.json"
    asked = quick_gate.ask("What is the sum?", "seven.png", "three.png", smoothing={"n_certify": 96})
    answer.write_text(asked.text)
    keys = f"{quick_gate.url}/.well-known/jwks.json"
    pictures = [f"--image={SAMPLES / name}" for name in ("seven.png", "three.png")]
    result = CliRunner().invoke(app, ["verify", str(answer), "--keys", keys, *pictures])
    assert result.exit_code == 0, result.output
    assert result.output.count("same here") > 40
    assert "FAILS" not in result.output

    swapped = CliRunner().invoke(app, ["verify", str(answer), "--keys", keys, *reversed(pictures)])
    assert swapped.exit_code == 1
    assert "another one" in swapped.output

    changed = json.loads(answer.read_text())
    answer.write_text(json.dumps(changed | {"answer": "The sum is 1."}))
    result = CliRunner().invoke(app, ["verify", str(answer), "--keys", keys])
    assert result.exit_code == 1
    assert result.output.count("another one than was signed") == 2
    changed["certificates"][0]["score_lower"] = 1.0
    answer.write_text(json.dumps(changed))
    result = CliRunner().invoke(app, ["verify", str(answer), "--keys", keys])
    assert result.exit_code == 1
    assert "score_lower" in result.output


def test_the_signature_covers_what_is_shown(quick_gate: Gate) -> None:
    (issued,) = quick_gate.http.post("/v1/certify", json={"images": [data_uri("two.png")]}).json()[
        "certificates"
    ]
    signed = verify(issued["jws"], quick_gate.http.get("/.well-known/jwks.json").json())
    assert signed.model_dump(mode="json") == {key: value for key, value in issued.items() if key != "jws"}


def test_the_answer_of_a_completion_is_held_against_the_one_signed(quick_gate: Gate, tmp_path: Path) -> None:
    question = {"role": "user", "content": [image_part("seven.png"), {"type": "text", "text": "What?"}]}
    body = quick_gate.http.post("/v1/chat/completions", json={"messages": [question]}).json()
    key_set = quick_gate.http.get("/.well-known/jwks.json")
    assert key_set.headers["cache-control"] == "public, max-age=300"
    text = json.dumps(body)
    ((jws, plain),) = read(text)
    assert all(c.passed for c in check(jws, plain, key_set.json(), texts=answered(text)))
    (failed,) = [c for c in check(jws, plain, key_set.json(), texts=["No."]) if not c.passed]
    assert failed.name == "answer"
    assert answered(jws) is None


def test_the_schema_is_published_and_documented(quick_gate: Gate) -> None:
    published = quick_gate.http.get("/v1/certificates/schema").json()
    documented = Path(__file__).parents[2] / "docs" / "certificate.schema.json"
    assert published == json.loads(documented.read_text()) == IssuedCertificate.model_json_schema()


def test_a_policy_that_reports_lets_the_answer_through(open_gate: OpenGate) -> None:
    gate = open_gate(policy="report", **POLICY)
    response = gate.ask("What digit is shown?", images=[ODD])
    assert response.json()["answer"]
    (certificate,) = response.json()["certificates"]
    assert certificate["outcome"] == "abstained"
    assert certificate["target"]["cosine"] == POLICY["policy_cosine"]


@pytest.mark.parametrize("path", ["/v1/chat", "/v1/chat/completions"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_policy_that_is_enforced_never_asks_the_language_model(
    open_gate: OpenGate, vllm: FakeVllm, path: str, stream: bool
) -> None:
    gate = open_gate(policy="enforce", **POLICY)
    body: dict[str, Any] = {"stream": stream}
    if path == "/v1/chat":
        body |= {"message": "What digit is shown?", "images": [ODD]}
    else:
        part = {"type": "image_url", "image_url": {"url": ODD}}
        body |= {"messages": [{"role": "user", "content": [part]}]}
    response = gate.http.post(path, json=body)
    assert response.status_code == (200 if stream else 422)
    (refusal,) = [json.loads(line.removeprefix("data: ")) for line in response.text.splitlines() if line]
    assert refusal["error"]["code"] == "policy_not_met"
    assert refusal["certificates"][0]["outcome"] == "abstained"
    assert vllm.bodies == []


def test_an_enforced_policy_that_is_met_is_answered(open_gate: OpenGate) -> None:
    gate = open_gate(policy="enforce", **POLICY)
    response = gate.ask("What digit is shown?", "seven.png")
    assert response.json()["answer"] == TEXT
    assert response.json()["certificates"][0]["stop_reason"] == "certified"


@pytest.mark.parametrize(
    ("smoothing", "param"),
    [
        ({"target": {"cosine": 0.2, "eps": 0.05}}, "smoothing.target"),
        ({"target": {"cosine": 0.9, "eps": 0.01}}, "smoothing.target"),
        ({"policy": "report"}, "smoothing.policy"),
        ({"mode": "off"}, "smoothing.mode"),
    ],
)
def test_a_client_cannot_ask_for_less_than_the_policy(
    open_gate: OpenGate, smoothing: dict[str, Any], param: str
) -> None:
    gate = open_gate(policy="enforce", policy_cosine=0.5, policy_eps=0.05)
    response = gate.ask("What digit is shown?", "seven.png", smoothing=smoothing)
    assert response.status_code == 422
    assert response.json()["error"]["param"] == param


def test_a_target_that_chance_meets_is_refused_by_its_name(quick_gate: Gate, vllm: FakeVllm) -> None:
    drawn = quick_gate.metric("smoothgate_samples_total")
    for sigma, cosine in ((0.5, 0.3), (1.0, 0.6)):
        aimed = {"sigma": sigma, "n_certify": 1024, "target": {"cosine": cosine, "eps": 0.05}}
        refused = quick_gate.ask("What digit is shown?", "seven.png", smoothing=aimed)
        error = refused.json()["error"]
        assert (refused.status_code, error["code"], error["param"]) == (
            422,
            "target_below_chance",
            "smoothing.target.cosine",
        )
        chance = quick_gate.smoother.chance_cosine(sigma)
        assert f"{chance:.4g}" in error["message"]
    assert quick_gate.metric("smoothgate_samples_total") == drawn
    assert vllm.bodies == []


def test_a_policy_that_chance_meets_ends_the_start(demo_encoder: UnitEncoder, vllm: FakeVllm) -> None:
    aimed = {"policy": "enforce", "policy_cosine": 0.3, "policy_eps": 0.05, "engine_url": vllm.url}
    settings = Settings(_env_file=None, **SETTINGS | aimed)
    service = build(settings, load_smoother=quick_smoother(demo_encoder, settings))
    with pytest.raises(SmoothgateError) as refused:
        asyncio.run(service.start())
    assert refused.value.code == "target_below_chance"


def test_a_client_can_ask_for_more(quick_gate: Gate) -> None:
    strict = {"n_certify": ENOUGH, "policy": "enforce", "target": TARGET}
    refused = quick_gate.ask("What digit is shown?", images=[ODD], smoothing=strict)
    assert (refused.status_code, refused.json()["error"]["code"]) == (422, "policy_not_met")
    nothing = quick_gate.ask("What digit is shown?", "seven.png", smoothing={"policy": "enforce"})
    assert nothing.json()["error"]["param"] == "smoothing.policy"


def test_certificates_are_kept_with_their_scores(open_gate: OpenGate, tmp_path: Path) -> None:
    gate = open_gate(store=tmp_path)
    (shown,) = gate.ask("What digit is shown?", "seven.png").json()["certificates"]
    (line,) = (tmp_path / "certificates.jsonl").read_text().splitlines()
    kept = json.loads(line)
    assert kept["jws"] == shown["jws"]
    assert len(kept["certification_scores"]) == shown["noise"]["n_certify"] == 64
    assert sum(kept["certification_scores"]) / 64 == pytest.approx(shown["score_estimate"])


@pytest.mark.parametrize("fault", ["a folder in its place", "full"])
def test_a_store_that_fails_does_not_take_the_answer_with_it(
    open_gate: OpenGate, tmp_path: Path, fault: str
) -> None:
    gate = open_gate(store=tmp_path)
    if fault == "full":
        (tmp_path / "certificates.jsonl").symlink_to("/dev/full")
    else:
        (tmp_path / "certificates.jsonl").mkdir()
    before = gate.metric("smoothgate_store_failures_total")
    answer = gate.ask("What digit is shown?", "seven.png")
    assert answer.status_code == 200
    assert len(answer.json()["certificates"]) == 1
    assert gate.metric("smoothgate_store_failures_total") == before + 1


def test_keys_are_rotated(tmp_path: Path) -> None:
    old, new = tmp_path / "old.pem", tmp_path / "new.pem"
    for path in (old, new):
        assert CliRunner().invoke(app, ["keys", "new", "--output", str(path)]).exit_code == 0
        assert path.stat().st_mode & 0o077 == 0
    assert CliRunner().invoke(app, ["keys", "new", "--output", str(old)]).exit_code == 1
    issuer = Issuer(new, [str(old)], None)
    kids = [key["kid"] for key in issuer.key_set["keys"]]
    assert kids == [SigningKey.load(new.read_text()).kid, PublicKey.load(old.read_text()).kid]
    assert all("d" not in key for key in issuer.key_set["keys"])


def test_a_key_file_that_holds_no_key_is_refused(tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_text("hello")
    with pytest.raises(SmoothgateError, match="cannot be used"):
        Issuer(tmp_path / "key.pem", [], None)

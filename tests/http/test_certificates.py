"""What is handed out can be checked, and a policy decides before the language model is asked."""

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from smoothgate.certify.signing import PublicKey, SigningKey, verify
from smoothgate.cli import app
from smoothgate.errors import SmoothgateError
from smoothgate.gate.issuing import Issuer
from smoothgate.gate.issuing import IssuedCertificate
from tests.whole_service import FEW, SAMPLES, Gate, data_uri

pytestmark = pytest.mark.engine

# Perfect scores would reach it; those of a picture unlike any that the PSM was trained on do not.
UNREACHABLE = {"policy_cosine": 0.9, "policy_eps": 0.25}
BUDGET = {"n_select": 64, "n_certify": 1024}


def _odd_picture() -> str:
    """A seven, half covered by 6 x 6 blocks of random colours: about 0.88 is certified of it."""
    colours = np.random.default_rng(0).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    blocks = Image.fromarray(colours).resize((48, 48), Image.Resampling.NEAREST)
    seven = Image.open(SAMPLES / "seven.png").convert("RGB").resize((48, 48), Image.Resampling.BOX)
    file = io.BytesIO()
    Image.blend(seven, blocks, 0.5).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def _engine_calls(gate: Gate) -> float:
    lines = gate.http.get("/metrics").text.splitlines()
    name = 'smoothgate_stage_seconds_count{stage="engine"}'
    return sum(float(line.split()[-1]) for line in lines if line.startswith(name))


def test_an_answer_is_confirmed_by_the_command(gate: Gate, tmp_path: Path) -> None:
    answer = tmp_path / "answer.json"
    answer.write_text(gate.ask("What is the sum?", "seven.png", "three.png").text)
    keys = f"{gate.url}/.well-known/jwks.json"
    pictures = [f"--image={SAMPLES / name}" for name in ("seven.png", "three.png")]
    result = CliRunner().invoke(app, ["verify", str(answer), "--keys", keys, *pictures])
    assert result.exit_code == 0, result.output
    assert result.output.count("FCSB at") == 6
    assert "FAILS" not in result.output

    swapped = CliRunner().invoke(app, ["verify", str(answer), "--keys", keys, *reversed(pictures)])
    assert swapped.exit_code == 1
    assert "another one" in swapped.output

    changed = json.loads(answer.read_text())
    changed["certificates"][0]["score_lower"] = 1.0
    answer.write_text(json.dumps(changed))
    result = CliRunner().invoke(app, ["verify", str(answer), "--keys", keys])
    assert result.exit_code == 1
    assert "score_lower" in result.output


def test_the_signature_covers_what_is_shown(gate: Gate) -> None:
    (issued,) = gate.http.post(
        "/v1/certify", json={"images": [data_uri("two.png")], "smoothing": FEW}
    ).json()["certificates"]
    signed = verify(issued["jws"], gate.http.get("/.well-known/jwks.json").json())
    assert signed.model_dump(mode="json") == {key: value for key, value in issued.items() if key != "jws"}


def test_the_schema_is_published_and_documented(gate: Gate) -> None:
    published = gate.http.get("/v1/certificates/schema").json()
    documented = Path(__file__).parents[2] / "docs" / "certificate.schema.json"
    assert published == json.loads(documented.read_text()) == IssuedCertificate.model_json_schema()


def test_a_policy_that_reports_lets_the_answer_through(gate: Gate, settings: Callable[..., None]) -> None:
    settings(policy="report", **UNREACHABLE)
    response = gate.ask("What digit is shown?", images=[_odd_picture()], smoothing=BUDGET)
    assert response.json()["answer"]
    (certificate,) = response.json()["certificates"]
    assert certificate["outcome"] == "abstained"
    assert certificate["target"]["cosine"] == 0.9


@pytest.mark.parametrize("path", ["/v1/chat", "/v1/chat/completions"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_policy_that_is_enforced_never_asks_the_language_model(
    gate: Gate, settings: Callable[..., None], path: str, stream: bool
) -> None:
    settings(policy="enforce", **UNREACHABLE)
    before = _engine_calls(gate)
    body: dict[str, Any] = {"stream": stream, "smoothing": BUDGET}
    if path == "/v1/chat":
        body |= {"message": "What digit is shown?", "images": [_odd_picture()]}
    else:
        part = {"type": "image_url", "image_url": {"url": _odd_picture()}}
        body |= {"messages": [{"role": "user", "content": [part]}]}
    response = gate.http.post(path, json=body)
    assert response.status_code == 422
    assert response.json()["error"]["code"] == "policy_not_met"
    assert response.json()["certificates"][0]["outcome"] == "abstained"
    assert _engine_calls(gate) == before


def test_an_enforced_policy_that_is_met_is_answered(gate: Gate, settings: Callable[..., None]) -> None:
    settings(policy="enforce", policy_cosine=0.6, policy_eps=0.1)
    response = gate.ask("What digit is shown?", "seven.png")
    assert response.json()["answer"] == "The digit is 7."
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
    gate: Gate, settings: Callable[..., None], smoothing: dict[str, Any], param: str
) -> None:
    settings(policy="enforce", policy_cosine=0.3, policy_eps=0.05)
    response = gate.ask("What digit is shown?", "seven.png", smoothing=smoothing)
    assert response.status_code == 422
    assert response.json()["error"]["param"] == param


def test_a_client_can_ask_for_more(gate: Gate) -> None:
    strict = BUDGET | {"policy": "enforce", "target": {"cosine": 0.9, "eps": 0.25}}
    assert gate.ask("What digit is shown?", images=[_odd_picture()], smoothing=strict).status_code == 422
    nothing = gate.ask("What digit is shown?", "seven.png", smoothing={"policy": "enforce"})
    assert nothing.json()["error"]["param"] == "smoothing.policy"


def test_certificates_are_kept_with_their_scores(
    gate: Gate, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    keyed = gate.runtime.settings.model_copy(update={"store": tmp_path})
    monkeypatch.setattr(gate.runtime, "issuer", Issuer(keyed))
    (shown,) = gate.ask("What digit is shown?", "seven.png").json()["certificates"]
    (line,) = (tmp_path / "certificates.jsonl").read_text().splitlines()
    kept = json.loads(line)
    assert kept["jws"] == shown["jws"]
    assert len(kept["certification_scores"]) == 256
    assert sum(kept["certification_scores"]) / 256 == pytest.approx(shown["score_estimate"])


@pytest.mark.parametrize("fault", ["gone", "full"])
def test_a_store_that_fails_does_not_take_the_answer_with_it(
    gate: Gate, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fault: str
) -> None:
    folder = tmp_path / "store"
    issuer = Issuer(gate.runtime.settings.model_copy(update={"store": folder}))
    if fault == "gone":
        folder.rmdir()
    else:
        (folder / "certificates.jsonl").symlink_to("/dev/full")
    monkeypatch.setattr(gate.runtime, "issuer", issuer)
    before = gate.metric("smoothgate_store_failures_total")
    answer = gate.ask("What digit is shown?", "seven.png")
    assert answer.status_code == 200
    assert len(answer.json()["certificates"]) == 1
    assert gate.metric("smoothgate_store_failures_total") == before + 1


def test_keys_are_rotated(gate: Gate, tmp_path: Path) -> None:
    old, new = tmp_path / "old.pem", tmp_path / "new.pem"
    for path in (old, new):
        assert CliRunner().invoke(app, ["keys", "new", "--output", str(path)]).exit_code == 0
        assert path.stat().st_mode & 0o077 == 0
    assert CliRunner().invoke(app, ["keys", "new", "--output", str(old)]).exit_code == 1
    base = gate.runtime.settings
    issuer = Issuer(base.model_copy(update={"signing_key_file": new, "retired_keys": (str(old),)}))
    kids = [key["kid"] for key in issuer.key_set["keys"]]
    assert kids == [SigningKey.load(new.read_text()).kid, PublicKey.load(old.read_text()).kid]
    assert all("d" not in key for key in issuer.key_set["keys"])


def test_a_key_file_that_holds_no_key_is_refused(gate: Gate, tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_text("hello")
    with pytest.raises(SmoothgateError, match="cannot be used"):
        Issuer(gate.runtime.settings.model_copy(update={"signing_key_file": tmp_path / "key.pem"}))

"""Request and seed are in the log before any noise is drawn, and the certificate after it."""

import json
import shutil
import sqlite3
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from smoothgate import metrics
from smoothgate.certify.answer_certificate import AnswerCertificate
from smoothgate.certify.certificate import Certificate
from smoothgate.certify.commitment import certificate_entry, committed_entry
from smoothgate.certify.merkle import extends
from smoothgate.certify.signing import verify, verify_checkpoint
from smoothgate.cli.main import app
from smoothgate.errors import NotReady
from smoothgate.gate import accounts, commitment_log
from smoothgate.gate.commitment_log import CommitmentLog
from smoothgate.log_verification import check_log
from smoothgate.sampling.sampler import Sampler
from smoothgate.verification import Check
from tests.quick_gate import OpenGate
from tests.waiting import wait_until
from tests.whole_service import Gate, data_uri


def _certify(gate: Gate, *names: str, **smoothing: Any) -> list[dict[str, Any]]:
    body = {"images": [data_uri(name) for name in names], "smoothing": smoothing}
    response = gate.http.post("/v1/certify", json=body)
    assert response.status_code == 200, response.text
    issued: list[dict[str, Any]] = response.json()["certificates"]
    return issued


def _fetch(gate: Gate) -> Any:
    def fetch(path: str, query: Any) -> Any:
        response = gate.http.get(f"/v1/log/{path}", params=query)
        return None if response.status_code == 404 else response.raise_for_status().json()

    return fetch


def _checks(gate: Gate, jws: str, fetch: Any = None) -> dict[str, Check]:
    keys = gate.http.get("/.well-known/jwks.json").json()
    return {each.name: each for each in check_log(jws, keys, fetch or _fetch(gate))}


def _checkpoint(gate: Gate) -> Any:
    signed = gate.http.get("/v1/log/checkpoint").json()["checkpoint"]
    return verify_checkpoint(signed, gate.http.get("/.well-known/jwks.json").json())


def test_the_command_finds_commitment_and_certificate_in_the_log(open_gate: OpenGate, tmp_path: Path) -> None:
    gate = open_gate(store=tmp_path)
    answer = tmp_path / "answer.json"
    answer.write_text(gate.ask("What is the sum?", "seven.png", "three.png").text)
    keys = f"{gate.url}/.well-known/jwks.json"
    arguments = ["verify", str(answer), "--keys", keys, "--log"]
    result = CliRunner().invoke(app, [*arguments, f"{gate.url}/v1/log"])
    assert result.exit_code == 0, result.output
    assert "FAILS" not in result.output
    assert result.output.count("before any noise was drawn") == 2
    certificates = json.loads(answer.read_text())["certificates"]
    assert [each["commitment"]["number"] for each in certificates] == [0, 1]
    assert _checkpoint(gate).size == 4

    without = open_gate()
    result = CliRunner().invoke(app, [*arguments, f"{without.url}/v1/log"])
    assert result.exit_code == 1
    assert "there is no log at this address" in result.output
    result = CliRunner().invoke(app, [*arguments, f"{gate.url}/health"])
    assert result.exit_code == 1
    assert "there is no log" in result.output


def test_the_commitment_is_written_before_the_first_sample_is_queued(
    open_gate: OpenGate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = open_gate(store=tmp_path)
    submit, seen = Sampler.submit, []

    def submitting(self: Sampler, ticket: Any) -> None:
        seen.append(metrics.LOG_ENTRIES._value.get())
        submit(self, ticket)

    monkeypatch.setattr(Sampler, "submit", submitting)
    _certify(gate, "seven.png")
    assert seen == [1]
    connection = sqlite3.connect(tmp_path / "commitments.sqlite")
    entries = [json.loads(content) for (content,) in connection.execute("SELECT content FROM entries")]
    connection.close()
    assert [entry["type"] for entry in entries] == ["commitment", "certificate"]
    assert entries[0]["secret"] == gate.smoother.seeds.secret_digest


def test_a_stream_and_a_cached_result_are_in_the_log_too(open_gate: OpenGate, tmp_path: Path) -> None:
    gate = open_gate(store=tmp_path, cache_mib=16)
    for stream in (False, True):
        response = gate.ask("What digit is shown?", "seven.png", stream=stream)
        assert response.status_code == 200
    assert _checkpoint(gate).size == 4
    (again,) = gate.ask("What digit is shown?", "seven.png").json()["certificates"]
    assert again["cached"]
    assert again["commitment"]["number"] == 4
    assert all(check.passed for check in _checks(gate, again["jws"]).values())


ANSWER = {"certify": "answer", "sigma": 0.5, "target": {"eps": 0.5}}


def _certified_answer(gate: Gate, **smoothing: Any) -> Any:
    body = {
        "message": "What digit is shown?",
        "images": [data_uri("seven.png"), data_uri("three.png")],
        "smoothing": ANSWER | smoothing,
    }
    return gate.http.post("/v1/chat", json=body)


def test_an_answer_is_committed_to_before_its_first_sample_and_logged_after_it(
    open_gate: OpenGate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = open_gate(store=tmp_path)
    submit, seen = Sampler.submit, []

    def submitting(self: Sampler, ticket: Any) -> None:
        seen.append(metrics.LOG_ENTRIES._value.get())
        submit(self, ticket)

    monkeypatch.setattr(Sampler, "submit", submitting)
    answer = tmp_path / "answer.json"
    answer.write_text(_certified_answer(gate).text)
    assert seen == [1, 1], "one commitment for both pictures"
    assert json.loads(answer.read_text())["answer_certificate"]["commitment"]["number"] == 0
    assert _checkpoint(gate).size == 2
    arguments = ["verify", str(answer), "--keys", f"{gate.url}/.well-known/jwks.json"]
    result = CliRunner().invoke(app, [*arguments, "--log", f"{gate.url}/v1/log"])
    assert result.exit_code == 0, result.output
    assert "before any noise was drawn" in result.output


ANSWER_CHANGES: dict[str, dict[str, Any]] = {
    "picture": {"images": [{"image": {"sha256": "0" * 64}}]},
    "seed": {"images": [{"seed": "1" * 32}]},
    "model": {"model": {"digest": "0" * 64}},
    "question": {"question": {"messages_sha256": "0" * 64}},
    "decoding": {"question": {"decoding_sha256": "0" * 64}},
    "form": {"answer": {"form": "choices"}},
    "pointer": {"answer": {"pointer": "/label"}},
    "sigma": {"noise": {"sigma": 0.25}},
    "n_select": {"selection": {"rest": 1}},
    "budget": {"noise": {"budget": 65}},
    "alpha": {"alpha": 0.002},
    "target": {"target": 0.6},
    "nonce": {"commitment": {"nonce": "0" * 32}},
    "secret": {"commitment": {"secret_digest": "0" * 64}},
    "number": {"commitment": {"number": 1}},
}


def test_a_certificate_of_another_answer_is_not_what_was_committed_to(
    open_gate: OpenGate, tmp_path: Path
) -> None:
    gate = open_gate(store=tmp_path)
    issued = _certified_answer(gate).json()["answer_certificate"]
    log = gate.service.commitments
    assert log is not None
    for name, changes in ANSWER_CHANGES.items():
        content = {key: value for key, value in issued.items() if key != "jws"}
        content = _changed(content, changes)
        forged = gate.service.issuer._key.sign(AnswerCertificate.model_validate_json(json.dumps(content)))
        log._append([certificate_entry(content["commitment"]["number"], forged)])
        found = _checks(gate, forged)
        assert not found["commitment"].passed, name
        assert found["certificate"].passed, name
    assert all(check.passed for check in _checks(gate, issued["jws"]).values())


def _changed(value: Any, changes: Any) -> Any:
    if isinstance(changes, dict):
        return value | {key: _changed(value[key], change) for key, change in changes.items()}
    if isinstance(changes, list):
        return [_changed(value[0], changes[0]), *value[1:]]
    return changes


def test_without_a_log_no_answer_is_certified(open_gate: OpenGate, tmp_path: Path) -> None:
    gate = open_gate(store=tmp_path)
    drawn = gate.metric("smoothgate_samples_total")
    log = gate.service.commitments
    assert log is not None
    assert log._writer is not None
    log._writer.execute("PRAGMA query_only = ON")
    refused = _certified_answer(gate)
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "log_unavailable")
    assert gate.metric("smoothgate_samples_total") == drawn
    assert "answer_certificate" not in refused.json()


def test_a_log_that_fails_after_the_vote_keeps_answer_and_certificate_back(
    open_gate: OpenGate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = open_gate(store=tmp_path)
    append = CommitmentLog._append

    def only_commitments(self: CommitmentLog, contents: list[bytes]) -> int:
        if b'"certificate"' in contents[0]:
            assert self._writer is not None
            self._writer.execute("PRAGMA query_only = ON")
        return append(self, contents)

    monkeypatch.setattr(CommitmentLog, "_append", only_commitments)
    for policy in ("report", "enforce"):
        assert gate.service.commitments is not None
        assert gate.service.commitments._writer is not None
        gate.service.commitments._writer.execute("PRAGMA query_only = OFF")
        refused = _certified_answer(gate, policy=policy)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "log_unavailable")
        assert "answer_certificate" not in refused.json()


CHANGES: dict[str, dict[str, Any]] = {
    "seed": {"noise": {"seed": "1" * 32}},
    "sigma": {"noise": {"sigma": 0.25}},
    "n_select": {"noise": {"n_select": 17}},
    "budget": {"noise": {"budget": 65}},
    "alpha": {"alpha": 0.002},
    "picture": {"image": {"sha256": "0" * 64}},
    "model": {"model": {"digest": "0" * 64}},
    "cosine threshold": {"radius": {"cosine_threshold": 0.6}},
    "nonce": {"commitment": {"nonce": "0" * 32}},
    "secret": {"commitment": {"secret_digest": "0" * 64}},
    "number": {"commitment": {"number": 1}},
}


def test_a_certificate_for_something_else_is_not_what_was_committed_to(
    open_gate: OpenGate, tmp_path: Path
) -> None:
    gate = open_gate(store=tmp_path)
    (issued,) = _certify(gate, "seven.png")
    log = gate.service.commitments
    assert log is not None
    for name, changes in CHANGES.items():
        content = {key: value for key, value in issued.items() if key != "jws"}
        for key, value in changes.items():
            content[key] = content[key] | value if isinstance(value, dict) else value
        # Signed by the key of the service itself, which then takes it into its log.
        forged = gate.service.issuer._key.sign(Certificate.model_validate(content))
        log._append([certificate_entry(content["commitment"]["number"], forged)])
        found = _checks(gate, forged)
        assert not found["commitment"].passed, name
        assert found["certificate"].passed, name


def test_a_certificate_that_was_logged_before_its_commitment_is_named(
    open_gate: OpenGate, tmp_path: Path
) -> None:
    gate = open_gate(store=tmp_path)
    (issued,) = _certify(gate, "seven.png")
    signed = verify(issued["jws"], gate.http.get("/.well-known/jwks.json").json())
    assert isinstance(signed, Certificate)
    assert signed.commitment is not None
    log = gate.service.commitments
    assert log is not None
    # A commitment that is made up after the fact comes later than the certificate that names its number.
    later = signed.commitment.model_copy(update={"number": 3})
    forged = gate.service.issuer._key.sign(signed.model_copy(update={"commitment": later}))
    log._append([certificate_entry(3, forged), committed_entry(signed, later)])
    found = _checks(gate, forged)
    assert found["commitment"].passed
    assert found["certificate"].passed
    assert not found["order"].passed


def test_a_certificate_that_was_never_logged_is_named(open_gate: OpenGate, tmp_path: Path) -> None:
    gate = open_gate(store=tmp_path)
    (issued,) = _certify(gate, "seven.png")
    content = {key: value for key, value in issued.items() if key != "jws"} | {"score_lower": 0.5}
    forged = gate.service.issuer._key.sign(Certificate.model_validate(content))
    found = _checks(gate, forged)
    assert found["commitment"].passed
    assert not found["certificate"].passed


def test_a_log_that_lies_is_noticed(open_gate: OpenGate, tmp_path: Path) -> None:
    gate = open_gate(store=tmp_path / "a")
    other = open_gate(store=tmp_path / "b")
    (issued,) = _certify(gate, "seven.png")
    assert "unknown_key" in _checks(gate, issued["jws"], _fetch(other))["log checkpoint"].detail

    def false_path(path: str, query: Any) -> Any:
        answer = _fetch(gate)(path, query)
        return answer if path == "checkpoint" else answer | {"path": ["00" * 32]}

    found = _checks(gate, issued["jws"], false_path)
    assert not found["commitment"].passed
    assert not found["certificate"].passed


def test_replicas_with_one_key_have_logs_of_their_own(open_gate: OpenGate, tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    assert CliRunner().invoke(app, ["keys", "new", "--output", str(key)]).exit_code == 0
    one, two = (open_gate(store=tmp_path / name, signing_key_file=key) for name in "ab")
    (issued,) = _certify(one, "seven.png")
    assert "of another log" in _checks(one, issued["jws"], _fetch(two))["log checkpoint"].detail


def test_later_checkpoints_extend_earlier_ones(open_gate: OpenGate, tmp_path: Path) -> None:
    gate = open_gate(store=tmp_path)
    checkpoints = []
    for name in ("seven.png", "three.png"):
        _certify(gate, name)
        checkpoints.append(_checkpoint(gate))
    first, second = checkpoints
    proof = gate.http.get("/v1/log/proof", params={"first": first.size, "size": second.size}).json()
    path = [bytes.fromhex(each) for each in proof["path"]]
    roots = [bytes.fromhex(each.root) for each in checkpoints]
    assert extends(first.size, roots[0], second.size, roots[1], path)
    assert first.log == second.log
    assert first.time < second.time


def test_the_log_outlives_the_rotation_of_the_store(open_gate: OpenGate, tmp_path: Path) -> None:
    gate = open_gate(store=tmp_path, store_files=1)
    (issued,) = _certify(gate, "seven.png")
    assert gate.service.issuer._store is not None
    gate.service.issuer._store._max_bytes = 1
    for name in ("three.png", "two.png"):
        _certify(gate, name)
    assert issued["jws"] not in (tmp_path / "certificates.jsonl").read_text()
    assert all(check.passed for check in _checks(gate, issued["jws"]).values())


def test_without_a_log_nothing_is_certified(
    open_gate: OpenGate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = open_gate(store=tmp_path)
    failures, drawn = (gate.metric(f"smoothgate_{name}") for name in ("log_failures_total", "samples_total"))
    log = gate.service.commitments
    assert log is not None
    assert log._writer is not None
    log._writer.execute("PRAGMA query_only = ON")
    images = [data_uri("seven.png")]
    for refused in (
        gate.http.post("/v1/certify", json={"images": images}),
        gate.http.post("/v1/chat", json={"message": "What digit is shown?", "images": images}),
    ):
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "log_unavailable")
        assert int(refused.headers["retry-after"]) >= 5
    assert gate.metric("smoothgate_samples_total") == drawn
    assert gate.metric("smoothgate_log_failures_total") == failures + 2
    assert gate.ask("Hello").status_code == 200
    log._writer.execute("PRAGMA query_only = OFF")
    entries = gate.metric("smoothgate_log_entries")
    _certify(gate, "seven.png")
    assert gate.metric("smoothgate_log_entries") == entries + 2


def test_a_log_that_fails_after_sampling_keeps_the_certificate_back(
    open_gate: OpenGate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = open_gate(store=tmp_path)
    append = CommitmentLog._append

    def only_commitments(self: CommitmentLog, contents: list[bytes]) -> int:
        if b'"certificate"' in contents[0]:
            shutil.rmtree(tmp_path)
            assert self._writer is not None
            self._writer.execute("PRAGMA query_only = ON")
        return append(self, contents)

    monkeypatch.setattr(CommitmentLog, "_append", only_commitments)
    refused = gate.http.post("/v1/certify", json={"images": [data_uri("seven.png")]})
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "log_unavailable")
    assert "certificates" not in refused.json()


@pytest.mark.parametrize("fault", ["read only", "full"])
def test_a_log_that_cannot_be_written_is_in_health_and_metrics_until_it_can(
    open_gate: OpenGate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    monkeypatch.setattr(commitment_log, "_WATCH_SECONDS", 0.05)
    gate = open_gate(store=tmp_path)
    assert gate.metric("smoothgate_log_up") == 1
    log = gate.service.commitments
    assert log is not None
    assert log._writer is not None
    if fault == "read only":  # as a disk that was mounted again
        log._writer.execute("PRAGMA query_only = ON")
    else:
        log._writer.execute("PRAGMA max_page_count = 1")
        for length in (3000, 3):
            with suppress(NotReady):
                while True:
                    log._append([b"x" * length])
    problems: list[Any] = []

    def unwell() -> bool:
        answer = gate.http.get("/health/ready")
        problems.append(answer.json())
        return answer.status_code == 503

    wait_until(unwell, 30, lambda: "the service is ready")
    assert problems[-1]["problems"] == {"log": "cannot be written"}
    assert gate.metric("smoothgate_log_up") == gate.metric("smoothgate_ready") == 0
    assert gate.http.get("/health/live").status_code == 200
    assert gate.ask("Hello").status_code == 200
    refused = gate.http.post("/v1/certify", json={"images": [data_uri("seven.png")]})
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "log_unavailable")
    log._writer.execute("PRAGMA query_only = OFF")
    log._writer.execute("PRAGMA max_page_count = 1000000")
    gate.wait_ready(30)
    assert gate.metric("smoothgate_log_up") == 1
    _certify(gate, "seven.png")


REFUSED: list[tuple[dict[str, Any], int, str, str]] = [
    ({}, 400, "malformed_request", "number"),
    ({"number": 0, "first": 1}, 400, "malformed_request", "number"),
    ({"number": -1}, 400, "malformed_request", "number"),
    ({"number": "x"}, 400, "malformed_request", "number"),
    ({"number": 2**60}, 400, "malformed_request", "number"),
    ({"leaf": "00"}, 400, "malformed_request", "leaf"),
    ({"leaf": "00" * 32}, 404, "not_in_log", "leaf"),
    ({"number": 2}, 404, "not_in_log", "number"),
    ({"number": 1, "size": 1}, 404, "not_in_log", "number"),
    ({"number": 0, "size": 3}, 404, "not_in_log", "size"),
    ({"number": 0, "size": 0}, 404, "not_in_log", "number"),
    ({"first": 0}, 404, "not_in_log", "first"),
    ({"first": 2, "size": 1}, 404, "not_in_log", "first"),
]


def test_a_proof_of_what_is_not_there_is_refused(open_gate: OpenGate, tmp_path: Path) -> None:
    gate = open_gate(store=tmp_path)
    assert gate.service.commitments is not None
    gate.service.commitments._append([b"one", b"two"])
    for query, status, code, param in REFUSED:
        refused = gate.http.get("/v1/log/proof", params=query)
        error = refused.json()["error"]
        assert (refused.status_code, error["code"], error["param"]) == (status, code, param), query


def test_the_log_is_there_for_those_without_a_key(open_gate: OpenGate, tmp_path: Path) -> None:
    account, _ = accounts.new("alice")
    accounts.save(tmp_path / "accounts.json", [account])
    gate = open_gate(store=tmp_path, accounts=tmp_path / "accounts.json")
    assert gate.http.get("/v1/log/checkpoint").status_code == 200
    assert gate.http.get("/v1/log/proof", params={"number": 0}).status_code == 404


def test_without_a_store_there_is_no_log(quick_gate: Gate) -> None:
    for path in ("checkpoint", "proof?number=0"):
        missing = quick_gate.http.get(f"/v1/log/{path}")
        assert missing.status_code == 404
        assert missing.json()["error"]["code"] == "no_log"
    (issued,) = _certify(quick_gate, "seven.png")
    assert issued["commitment"] is None
    assert not _checks(quick_gate, issued["jws"])["log"].passed

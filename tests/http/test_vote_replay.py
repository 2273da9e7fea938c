"""`smoothgate verify --engine` asks the votes of a certified answer again: same noise, words and numbers."""

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from smoothgate.certify.answer_certificate import AnswerCertificate, sha256
from smoothgate.cli.main import app
from tests.fake_vllm import FakeVllm
from tests.quick_gate import OpenGate
from tests.whole_service import SAMPLES, Gate, data_uri

PICTURE = "seven.png"
REQUEST: dict[str, Any] = {
    "message": "What digit is shown?",
    "images": [data_uri(PICTURE)],
    "max_tokens": 8,
    "temperature": 0,
    "smoothing": {"certify": "answer", "sigma": 0.5, "n_certify": 64},
}


class Case:
    """A certified answer in files, with what a verifier needs."""

    def __init__(self, gate: Gate, folder: Path, route: str, request: Any) -> None:
        self.gate, self.folder, self.request = gate, folder, request
        answer = gate.http.post(route, json=request)
        assert answer.status_code == 200, answer.text
        self.answer = answer.json()
        self.keys = f"{gate.url}/.well-known/jwks.json"

    def verify(self, engine: str, *options: str, **changes: Any) -> Any:
        """The result of the command; `changes`: the request as the verifier has it."""
        file, question = self.folder / "answer.json", self.folder / "question.json"
        file.write_text(json.dumps(self.answer))
        question.write_text(json.dumps(self.request | changes))
        words = ["verify", str(file), "--keys", self.keys, "--image", str(SAMPLES / PICTURE)]
        words += ["--engine", engine, "--question", str(question), *options]
        return CliRunner().invoke(app, words, env={"COLUMNS": "250"})

    def forge(self, change: Callable[[dict[str, Any]], None]) -> None:
        """Sign a changed certificate with the key of the service. Its bounds follow from its votes."""
        content = {k: v for k, v in self.answer["answer_certificate"].items() if k != "jws"}
        change(content)
        claimed = AnswerCertificate.model_validate_json(json.dumps(content))
        statement = claimed.statement
        content |= {"p_low": statement.p_low, "p_up": statement.p_up, "radius": statement.radius}
        content["images"][0] |= {"upload_radius": None, "levels": None}
        content["stop_reason"] = claimed.count.reason or "deadline"
        content["outcome"] = "certified" if statement.certified else "abstained"
        forged = AnswerCertificate.model_validate_json(json.dumps(content))
        jws = self.gate.service.issuer._key.sign(forged)
        self.answer["answer_certificate"] = json.loads(forged.model_dump_json()) | {"jws": jws}


@pytest.fixture
def case(quick_gate: Gate, vllm: FakeVllm, tmp_path: Path) -> Case:
    """Eight votes in ten for the answer, and one for each of two others."""
    vllm.answers = lambda number: {0: "1", 5: "a one"}.get(number % 10, "7")
    return Case(quick_gate, tmp_path, "/v1/chat", REQUEST)


def _tokens(vllm: FakeVllm) -> list[Tensor]:
    """The visual tokens of every chat that vLLM was asked."""
    found = []
    for body in vllm.bodies:
        (part,) = [part for part in body["messages"][-1]["content"] if part["type"] == "image_embeds"]
        data = part["image_embeds"]
        found.append(torch.load(io.BytesIO(base64.b64decode(data)), weights_only=True).flatten())
    return found


def test_the_same_noisy_copies_are_asked_about_and_give_the_same_votes(case: Case, vllm: FakeVllm) -> None:
    first = torch.stack(_tokens(vllm))
    assert len(first) == 16 + 64
    vllm.bodies = []
    result = case.verify(vllm.url)
    assert result.exit_code == 0, result.output
    votes = case.answer["answer_certificate"]["votes"]
    told = f"64 of 64: {votes['hits']} give the answer, {votes['runner_up']} the runner-up, {votes['rest']}"
    assert told in result.output
    again = torch.stack(_tokens(vllm))
    # Calls of one batch come in any order.
    distances = torch.cdist(again.double(), first.double())
    assert distances.min(1).values.max() < 1e-3
    assert sorted(distances.argmin(1).tolist()) == list(range(16 + 64))


def test_a_share_of_the_votes_is_asked_again(case: Case, vllm: FakeVllm) -> None:
    vllm.bodies = []
    result = case.verify(vllm.url, "--share", "0.25")
    assert result.exit_code == 0, result.output
    assert "16 of 64" in result.output
    assert len(vllm.bodies) == 16 + 16


def test_openai_requests_are_read_too(quick_gate: Gate, vllm: FakeVllm, tmp_path: Path) -> None:
    picture = {"type": "image_url", "image_url": {"url": data_uri(PICTURE)}}
    content = [picture, {"type": "text", "text": "What digit is shown?"}]
    smoothing = REQUEST["smoothing"] | {"answer": {"choices": ["7", "1"], "prefix": "The digit is"}}
    request = {"messages": [{"role": "user", "content": content}], "smoothing": smoothing, "user": "alice"}
    vllm.text = "7"
    case = Case(quick_gate, tmp_path, "/v1/chat/completions", request)
    result = case.verify(vllm.url)
    assert result.exit_code == 0, result.output
    result = case.verify(vllm.url, smoothing=smoothing | {"answer": {"choices": ["7", "2"]}})
    assert result.exit_code == 1
    assert "another one than was certified" in result.output


_DATA = data_uri(PICTURE).partition(",")[2]
_SOURCE = {"type": "base64", "media_type": "image/png", "data": _DATA}
_FEW = REQUEST["smoothing"] | {"n_certify": 32}


@pytest.mark.parametrize(
    ("route", "request_"),
    [
        (
            "/v1/responses",
            {
                "instructions": "Be brief.",
                "input": [
                    {"role": "user", "content": [{"type": "input_image", "image_url": data_uri(PICTURE)}]}
                ],
                "max_output_tokens": 8,
            },
        ),
        (
            "/v1/messages",
            {
                "system": "Be brief.",
                "messages": [{"role": "user", "content": [{"type": "image", "source": _SOURCE}]}],
                "max_tokens": 8,
            },
        ),
    ],
)
def test_requests_of_the_other_apis_are_read_too(
    quick_gate: Gate, vllm: FakeVllm, tmp_path: Path, route: str, request_: dict[str, Any]
) -> None:
    case = Case(quick_gate, tmp_path, route, request_ | {"smoothing": _FEW})
    result = case.verify(vllm.url)
    assert result.exit_code == 0, result.output
    assert "the one certified" in result.output
    most = "max_output_tokens" if "input" in request_ else "max_tokens"
    result = case.verify(vllm.url, **{most: 7})
    assert result.exit_code == 1


def _more_hits(content: dict[str, Any]) -> None:
    content["votes"] = {"hits": 64, "runner_up": 0, "rest": 0}


def _split(content: dict[str, Any]) -> None:
    """Votes against the answer, as if they were divided among many."""
    both = content["votes"]["runner_up"] + content["votes"]["rest"]
    content["votes"] |= {"runner_up": 0, "rest": both}


def _another_answer(content: dict[str, Any]) -> None:
    content["answer"] |= {"canonical": "1", "canonical_sha256": sha256("1")}


def _another_text(content: dict[str, Any]) -> None:
    content["answer"] |= {"text_sha256": sha256("7 it is")}


@pytest.mark.parametrize(
    ("change", "check"),
    [
        (_more_hits, "votes asked again"),
        (_split, "votes asked again"),
        (_another_answer, "selection asked again"),
        (_another_text, "text sent"),
    ],
)
def test_votes_that_were_never_given_are_refused(
    case: Case, vllm: FakeVllm, change: Callable[[dict[str, Any]], None], check: str
) -> None:
    """A key holder may sign what follows from made-up votes. Only asking again shows it."""
    case.forge(change)
    result = case.verify(vllm.url)
    assert result.exit_code == 1
    failed = [line.split("│")[1].strip() for line in result.output.splitlines() if "FAILS" in line]
    assert check in failed
    assert "votes" not in failed, "the numbers agree with each other"


def test_many_made_up_votes_are_found_in_a_share_of_them(case: Case, vllm: FakeVllm) -> None:
    vllm.answers = lambda number: "7" if number < 16 or number % 2 else "1"
    case.forge(_more_hits)
    result = case.verify(vllm.url, "--share", "0.25")
    assert result.exit_code == 1
    assert "votes asked again" in result.output


@pytest.mark.parametrize(
    "changes",
    [
        {"message": "What letter is shown?"},
        {"max_tokens": 9},
        {"images": []},
        {"history": [{"role": "user"}]},
    ],
)
def test_another_question_is_named_and_not_asked(case: Case, vllm: FakeVllm, changes: dict[str, Any]) -> None:
    vllm.bodies = []
    result = case.verify(vllm.url, **changes)
    assert result.exit_code == 1
    assert "another one than was certified" in result.output
    assert vllm.bodies == []


def test_what_cannot_be_done_is_said_in_a_sentence(case: Case, vllm: FakeVllm) -> None:
    refused = case.verify(vllm.url, "--signature-only")
    assert refused.exit_code == 1
    assert "--engine needs a certified answer" in refused.output
    refused = case.verify(vllm.url, "--max-samples", "50")
    assert "80 samples are more than are drawn here: 50" in refused.output
    refused = case.verify("http://127.0.0.1:9")
    assert refused.exit_code == 1
    assert "Traceback" not in refused.output
    assert isinstance(refused.exception, SystemExit)
    refused = case.verify(vllm.url, message=7)
    assert refused.exit_code == 1
    assert isinstance(refused.exception, SystemExit)


def test_without_an_engine_the_votes_are_named_as_on_trust(case: Case, tmp_path: Path) -> None:
    file = tmp_path / "whole.json"
    file.write_text(json.dumps(case.answer))
    result = CliRunner().invoke(app, ["verify", str(file), "--keys", case.keys], env={"COLUMNS": "250"})
    assert result.exit_code == 0, result.output
    assert "the votes themselves, question, model, seeds" in result.output


@pytest.mark.engine
def test_a_real_language_model_gives_the_same_votes_again(
    open_gate: OpenGate, demo_vllm: str, tmp_path: Path
) -> None:
    gate = open_gate(engine_url=demo_vllm)
    # At this sigma its votes are divided.
    smoothing = {"certify": "answer", "sigma": 1.0, "n_certify": 128}
    case = Case(gate, tmp_path, "/v1/chat", REQUEST | {"smoothing": smoothing})
    result = case.verify(demo_vllm)
    assert result.exit_code == 0, result.output

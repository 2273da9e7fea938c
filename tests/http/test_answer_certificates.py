"""Certified answers over HTTP: real encoder and sampler, and a vLLM whose answer to each sample is known."""

import json
import threading
import time
from typing import Any

import pytest

from smoothgate.certify.answer_certificate import AnswerCertificate, sha256
from tests.fake_vllm import TEXT, FakeVllm
from tests.quick_gate import OpenGate
from tests.waiting import wait_until
from tests.whole_service import Gate, data_uri

QUESTION = "What digit is shown?"
ANSWER: dict[str, Any] = {"certify": "answer", "sigma": 0.5, "target": {"eps": 0.5}}
#: 16 samples that choose the answer, and the 44 that the radius takes if all agree.
LEAST = 60


def ask(gate: Gate, question: str = QUESTION, picture: str = "seven.png", **fields: Any) -> Any:
    body = {"message": question, "images": [data_uri(picture)], "smoothing": ANSWER} | fields
    return gate.http.post("/v1/chat", json=body)


def certificate_of(answer: Any) -> AnswerCertificate:
    issued = answer.json()["answer_certificate"]
    issued.pop("jws")
    return AnswerCertificate.model_validate_json(json.dumps(issued))


def test_an_answer_that_all_samples_give_is_certified_with_the_fewest_samples(
    quick_gate: Gate, vllm: FakeVllm
) -> None:
    answer = ask(quick_gate)
    assert answer.status_code == 200
    assert answer.json()["answer"] == TEXT
    assert answer.json()["certificates"] == []
    certificate = certificate_of(answer)
    assert certificate.outcome == "certified"
    assert certificate.radius is not None
    assert certificate.radius >= 0.5
    assert (certificate.selection.hits, certificate.votes.hits) == (16, 44)
    assert len(vllm.bodies) == LEAST
    assert certificate.answer.canonical == "the digit is 7."
    assert certificate.answer.text_sha256 == sha256(TEXT)
    assert answer.headers["Smoothgate-Outcome"] == "certified"
    assert float(answer.headers["Smoothgate-Radius"]) == pytest.approx(certificate.radius, rel=1e-5)


def test_the_bounds_follow_from_the_votes(quick_gate: Gate, vllm: FakeVllm) -> None:
    vllm.answers = lambda number: "7" if number % 10 else "1"
    certificate = certificate_of(ask(quick_gate))
    statement = certificate.statement
    assert (statement.p_low, statement.p_up, statement.radius) == (
        certificate.p_low,
        certificate.p_up,
        certificate.radius,
    )
    assert certificate.votes.runner_up == sum(1 for n in range(16, 16 + statement.tally.n) if n % 10 == 0)


def test_each_sample_has_noise_of_its_own(quick_gate: Gate, vllm: FakeVllm) -> None:
    ask(quick_gate)
    tokens = {json.dumps(body["messages"]) for body in vllm.bodies}
    assert len(tokens) == len(vllm.bodies)


def test_votes_count_in_the_order_of_their_samples(quick_gate: Gate, vllm: FakeVllm) -> None:
    """Wrong answers that come fast must not be counted before right ones that come late."""

    def slow_where_right(number: int) -> str:
        if number % 3:
            time.sleep(0.05)
            return "7"
        return "1"

    vllm.answers = slow_where_right
    certificate = certificate_of(ask(quick_gate, smoothing=ANSWER | {"n_certify": 64}))
    n = certificate.votes.tally.n
    assert certificate.votes.hits == sum(1 for number in range(16, 16 + n) if number % 3)


def test_an_answer_that_most_samples_do_not_give_is_abstained(quick_gate: Gate, vllm: FakeVllm) -> None:
    vllm.answers = lambda number: str(number % 3)
    answer = ask(quick_gate)
    certificate = certificate_of(answer)
    assert (answer.status_code, certificate.outcome) == (200, "abstained")
    assert answer.headers["Smoothgate-Outcome"] == "abstained"
    assert certificate.stop_reason == "unreachable"
    assert len(vllm.bodies) < 16 + 64


def test_an_enforced_radius_that_is_missed_is_refused_with_the_certificate(
    quick_gate: Gate, vllm: FakeVllm
) -> None:
    vllm.answers = lambda number: str(number % 2)
    refused = ask(quick_gate, smoothing=ANSWER | {"policy": "enforce"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (422, "policy_not_met")
    assert refused.json()["answer_certificate"]["outcome"] == "abstained"


def test_an_answer_that_is_never_of_its_form_is_abstained(quick_gate: Gate, vllm: FakeVllm) -> None:
    vllm.text = "who knows"
    answer = ask(quick_gate, smoothing=ANSWER | {"answer": {"choices": ["1", "7"]}})
    certificate = certificate_of(answer)
    assert (certificate.outcome, certificate.answer.canonical, certificate.radius) == (
        "abstained",
        None,
        None,
    )
    assert vllm.bodies[0]["structured_outputs"] == {"choice": ["1", "7"]}


def test_two_pictures_make_one_statement(quick_gate: Gate, vllm: FakeVllm) -> None:
    answer = ask(quick_gate, images=[data_uri("seven.png"), data_uri("seven.png")])
    certificate = certificate_of(answer)
    assert len(certificate.images) == 2
    assert certificate.images[0].seed != certificate.images[1].seed
    assert certificate.votes.tally.n + 16 == len(vllm.bodies) == LEAST


def test_a_stream_brings_the_certificate_and_the_whole_answer(quick_gate: Gate, vllm: FakeVllm) -> None:
    body = {
        "model": "",
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "image_url", "image_url": {"url": data_uri("seven.png")}},
                    {"type": "text", "text": QUESTION},
                ],
            }
        ],
        "smoothing": ANSWER,
    }
    whole = quick_gate.http.post("/v1/chat/completions", json=body)
    assert whole.status_code == 200
    assert whole.json()["choices"][0]["message"]["content"] == TEXT
    assert whole.json()["answer_certificate"]["outcome"] == "certified"
    streamed = body | {"stream": True, "stream_options": {"include_usage": True}}
    lines = quick_gate.http.post("/v1/chat/completions", json=streamed).text.split("\n")
    data = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    assert data.pop() == "[DONE]"
    chunks = [json.loads(one) for one in data]
    texts = [choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"]]
    assert "".join(texts) == TEXT
    assert [chunk["answer_certificate"]["outcome"] for chunk in chunks if "answer_certificate" in chunk] == [
        "certified"
    ]
    assert chunks[-1]["usage"]["total_tokens"] > 0


@pytest.mark.parametrize(
    ("smoothing", "param"),
    [
        ({"certify": "answer", "eps": [0.5]}, "smoothing.eps"),
        ({"certify": "answer", "cosine_threshold": 0.5}, "smoothing.cosine_threshold"),
        ({"certify": "answer", "target": {"eps": 0.5, "cosine": 0.5}}, "smoothing.target.cosine"),
        ({"certify": "answer", "sigma": 0.1, "target": {"eps": 0.5}}, "smoothing.n_certify"),
        ({"certify": "answer", "answer": {"choices": ["a", "A"]}}, "smoothing.answer.choices"),
        ({"certify": "features", "answer": {"prefix": "It is"}}, "smoothing.answer"),
    ],
)
def test_options_that_do_not_fit_are_refused_by_name(
    quick_gate: Gate, smoothing: dict[str, Any], param: str
) -> None:
    refused = ask(quick_gate, smoothing=smoothing)
    assert (refused.status_code, refused.json()["error"]["param"]) == (422, param)


def test_without_a_question_there_is_no_answer_to_certify(quick_gate: Gate) -> None:
    body = {"images": [data_uri("seven.png")], "smoothing": {"certify": "answer"}}
    refused = quick_gate.http.post("/v1/certify", json=body)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "smoothing.certify")


def test_an_engine_that_fails_in_the_middle_fails_the_request(quick_gate: Gate, vllm: FakeVllm) -> None:
    def break_later(number: int) -> str:
        if number == 30:
            vllm.fault = "failure"
        return "7"

    vllm.answers = break_later
    failed = ask(quick_gate)
    assert failed.status_code == 502
    assert "answer_certificate" not in failed.json()
    vllm.reset()
    assert ask(quick_gate).status_code == 200


def test_a_client_that_leaves_ends_draws_and_generations(quick_gate: Gate, vllm: FakeVllm) -> None:
    before = quick_gate.metric("smoothgate_work_dropped_total")
    vllm.open.clear()
    with quick_gate.http.stream(
        "POST",
        "/v1/chat",
        json={"message": QUESTION, "images": [data_uri("seven.png")], "smoothing": ANSWER, "stream": True},
    ):
        wait_until(lambda: vllm.bodies, 30, lambda: "vLLM was not asked")
    dropped = "smoothgate_work_dropped_total"
    wait_until(lambda: quick_gate.metric(dropped) > before, 30, lambda: "nothing was dropped")
    assert quick_gate.metric("smoothgate_queued_samples") == 0


def test_the_operator_may_certify_answers_by_default(open_gate: OpenGate, vllm: FakeVllm) -> None:
    gate = open_gate(certify="answer", policy="enforce", policy_radius=0.25, sigma=0.5)
    answer = ask(gate, smoothing={})
    assert certificate_of(answer).target == 0.25
    refused = ask(gate, smoothing={"certify": "features"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (422, "laxer_than_policy")
    refused = ask(gate, smoothing={"target": {"eps": 0.1}})
    assert (refused.status_code, refused.json()["error"]["code"]) == (422, "laxer_than_policy")
    text = gate.http.post("/v1/chat", json={"message": "Hello"})
    assert text.status_code == 200


def test_votes_and_features_share_the_sampler(quick_gate: Gate, vllm: FakeVllm) -> None:
    answers: list[Any] = []
    threads = [
        threading.Thread(target=lambda: answers.append(ask(quick_gate))),
        threading.Thread(target=lambda: answers.append(ask(quick_gate, smoothing={}))),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(bool(answer.json()["answer_certificate"]) for answer in answers) == [False, True]


def test_metrics_count_votes_and_outcomes(quick_gate: Gate, vllm: FakeVllm) -> None:
    votes = quick_gate.metric("smoothgate_votes_total")
    certified = quick_gate.metric('smoothgate_answer_certificates_total{outcome="certified"}')
    radii = quick_gate.metric("smoothgate_answer_radius_sum")
    generations = quick_gate.metric("smoothgate_generations_per_answer_sum")
    radius = certificate_of(ask(quick_gate)).radius
    assert radius is not None
    assert quick_gate.metric("smoothgate_answer_radius_sum") == pytest.approx(radii + radius)
    assert quick_gate.metric("smoothgate_generations_per_answer_sum") == generations + LEAST
    assert quick_gate.metric("smoothgate_votes_total") == votes + LEAST
    assert quick_gate.metric('smoothgate_answer_certificates_total{outcome="certified"}') == certified + 1


def test_features_have_their_outcome_in_a_header_too(quick_gate: Gate, vllm: FakeVllm) -> None:
    bounded = ask(quick_gate, smoothing={"eps": [0.05]})
    assert bounded.headers["Smoothgate-Outcome"] == bounded.json()["certificates"][0]["outcome"] == "bounded"
    aimed = ask(quick_gate, smoothing={"target": {"cosine": 0.95, "eps": 0.5}, "n_certify": 256})
    assert aimed.headers["Smoothgate-Outcome"] == aimed.json()["certificates"][0]["outcome"] != "bounded"
    assert "Smoothgate-Outcome" not in quick_gate.http.post("/v1/chat", json={"message": "Hello"}).headers


def test_when_the_time_is_up_the_votes_that_are_there_are_certified(
    open_gate: OpenGate, vllm: FakeVllm
) -> None:
    gate = open_gate(request_timeout_seconds=5)
    over = threading.Event()

    def late(number: int) -> str:
        if number >= 40:
            over.wait(30)
        return "7"

    vllm.answers = late
    try:
        certificate = certificate_of(ask(gate))
    finally:
        over.set()
    assert (certificate.stop_reason, certificate.outcome) == ("deadline", "abstained")
    assert certificate.votes.hits == 40 - 16
    assert certificate.statement.p_low == certificate.p_low > 0.5

"""Certified answers over HTTP: real encoder and sampler, and a vLLM whose answer to each sample is known."""

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from smoothgate.certify.answer_certificate import AnswerCertificate, sha256
from smoothgate.gate import accounts
from tests.fake_vllm import TEXT, USAGE, FakeVllm
from tests.quick_gate import OpenGate
from tests.sse_data import sse_data
from tests.waiting import wait_until
from tests.whole_service import Gate, data_uri

QUESTION = "What digit is shown?"
ANSWER: dict[str, Any] = {"certify": "answer", "sigma": 0.5, "target": {"eps": 0.5}}
#: 16 samples that choose the answer, and the 44 that the radius takes if all agree.
LEAST = 60


def _body(picture: str = "seven.png", **fields: Any) -> dict[str, Any]:
    return {"message": QUESTION, "images": [data_uri(picture)], "smoothing": ANSWER} | fields


def ask(gate: Gate, picture: str = "seven.png", **fields: Any) -> Any:
    return gate.http.post("/v1/chat", json=_body(picture, **fields))


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


def test_a_stream_says_how_far_the_vote_has_come(quick_gate: Gate, vllm: FakeVllm) -> None:
    def mixed(number: int) -> str:
        time.sleep(0.05)
        return "9" if number % 10 == 9 else "7"

    vllm.answers = mixed
    streamed = ask(quick_gate, stream=True, smoothing=ANSWER | {"n_certify": 256, "target": {"eps": 0.25}})
    events = [json.loads(data) for data in sse_data(streamed.text.split("\n")) if data != "[DONE]"]
    told = [event["votes"] for event in events if "votes" in event]
    assert events[: len(told)] == [event for event in events if "votes" in event], "before the answer"
    counted = [one["counted"] for one in told]
    assert len(counted) > 1
    assert counted == sorted(counted)
    assert {one["budget"] for one in told} == {256}
    (certificate,) = [event["answer_certificate"] for event in events if "answer_certificate" in event]
    votes = certificate["votes"]
    assert counted[-1] == votes["hits"] + votes["runner_up"] + votes["rest"]
    for one in told:
        assert [answer for answer, _ in one["answers"]] in ([], ["7"], ["7", "9"])
        assert sum(number for _, number in one["answers"]) == one["counted"]


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


def test_many_samples_go_in_one_request_where_the_family_allows_it(quick_gate: Gate, vllm: FakeVllm) -> None:
    vllm.lists = "yes"
    vllm.answers = lambda number: "7" if number % 10 else "1"
    in_lists = certificate_of(ask(quick_gate))
    assert len(vllm.bodies) == 1
    assert max(vllm.prompts) > 1
    vllm.lists = "no"
    assert certificate_of(ask(quick_gate)).votes == in_lists.votes


def test_a_vllm_that_refuses_lists_is_asked_one_by_one(quick_gate: Gate, vllm: FakeVllm) -> None:
    """A deployment that was started without `--enable-prompt-embeds`."""
    vllm.lists = "refused"
    assert certificate_of(ask(quick_gate)).outcome == "certified"
    assert len(vllm.bodies) == LEAST


@pytest.mark.parametrize("streamed", [False, True])
def test_an_engine_that_fails_on_a_list_leaves_nothing_half_certified(
    quick_gate: Gate, vllm: FakeVllm, streamed: bool
) -> None:
    def break_later(number: int) -> str:
        if number >= 16:
            vllm.fault = "failure"
        return "7"

    vllm.lists = "yes"
    vllm.answers = break_later
    issued = quick_gate.metric("smoothgate_answer_certificates_total")
    failed = ask(quick_gate, stream=streamed, smoothing=ANSWER | {"n_certify": 256, "target": None})
    assert "engine_failed" in failed.text
    assert "answer_certificate" not in failed.text
    assert quick_gate.metric("smoothgate_answer_certificates_total") == issued
    assert quick_gate.metric("smoothgate_generations_in_flight") == 0


def test_votes_share_a_limit_of_generations_whatever_the_size_of_their_requests(
    open_gate: OpenGate, vllm: FakeVllm
) -> None:
    def slow(number: int) -> str:
        time.sleep(0.01)
        return "7"

    gate = open_gate(votes_in_flight=24)
    vllm.lists = "yes"
    vllm.answers = slow
    vllm.open.clear()
    answers: list[Any] = []
    threads = [threading.Thread(target=lambda: answers.append(ask(gate))) for _ in range(2)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(vllm.bodies) == 2, 30, lambda: "the votes did not begin")
    vllm.open.set()
    wait_until(lambda: vllm.prompts, 30, lambda: "no list came")
    most = 0.0
    while any(thread.is_alive() for thread in threads):
        most = max(most, gate.metric("smoothgate_generations_in_flight"))
    assert 0 < most <= 24
    assert max(vllm.prompts) <= 24
    assert [certificate_of(answer).outcome for answer in answers] == ["certified"] * 2


def test_a_request_that_would_wait_too_long_for_generations_is_refused(
    open_gate: OpenGate, vllm: FakeVllm
) -> None:
    """The sampler has room: it has drawn all it may, and vLLM is slow."""

    def slow(number: int) -> str:
        time.sleep(0.2)
        return "7"

    gate = open_gate(max_queued_seconds=20, votes_in_flight=1)
    vllm.answers = slow
    long = ANSWER | {"n_certify": 1000, "target": None}
    before = gate.metric("smoothgate_votes_total")
    with gate.http.stream("POST", "/v1/chat", json=_body(smoothing=long, stream=True)):
        votes = "smoothgate_votes_total"
        wait_until(lambda: gate.metric(votes) > before + 3, 30, lambda: "there are no votes")
        assert gate.metric("smoothgate_queued_seconds") < 20
        refused = ask(gate, picture="three.png")
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "queue_full")
        assert "generations" in refused.json()["error"]["message"]
        assert ask(gate, smoothing={}).status_code == 200, "features need no generations of votes"
    vllm.answers = None
    wait_until(lambda: gate.metric("smoothgate_queued_generations") == 0, 30, lambda: "votes still wait")
    assert gate.metric("smoothgate_reserved_generations") == 0
    assert ask(gate, picture="three.png", smoothing=ANSWER | {"n_certify": 64}).status_code == 200


def test_an_account_is_charged_for_all_samples_and_all_generations(
    open_gate: OpenGate, vllm: FakeVllm, tmp_path: Path
) -> None:
    """The tokens of the answer that is sent are a sixtieth of them."""
    account, key = accounts.new("alice", tokens_per_minute=40 * USAGE["total_tokens"], samples_per_minute=120)
    accounts.save(tmp_path / "accounts.json", [account])
    gate = open_gate(accounts=tmp_path / "accounts.json")
    gate.http.headers["Authorization"] = f"Bearer {key}"
    answer = ask(gate, smoothing=ANSWER | {"n_certify": 100})
    assert answer.json()["usage"] == USAGE
    refused = gate.http.post("/v1/chat", json={"message": "Hello"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "tokens_per_minute")
    refused = gate.http.post("/v1/certify", json={"images": [data_uri("three.png")]})
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "samples_per_minute")


def test_a_client_that_leaves_ends_draws_and_generations(quick_gate: Gate, vllm: FakeVllm) -> None:
    before = quick_gate.metric("smoothgate_work_dropped_total")
    vllm.open.clear()
    with quick_gate.http.stream(
        "POST",
        "/v1/chat",
        json=_body(stream=True),
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


@pytest.mark.parametrize("long_one", ["answer", "features"])
def test_neither_votes_nor_features_starve_the_others(
    open_gate: OpenGate, vllm: FakeVllm, long_one: str
) -> None:
    """A short request ends while a long one of the other kind runs, whose samples all wait already."""
    gate = open_gate()
    vllm.lists = "yes"
    long, short = ANSWER | {"n_certify": 8000, "target": None}, {"n_select": 16, "n_certify": 44}
    if long_one == "features":
        long, short = {"n_certify": 8000}, ANSWER
    drawn = gate.metric("smoothgate_samples_total")
    with gate.http.stream("POST", "/v1/chat", json=_body(smoothing=long, stream=True)):
        waits = "smoothgate_queued_samples"
        wait_until(lambda: gate.metric(waits) > 6000, 30, lambda: "the long one does not wait")
        answer = ask(gate, picture="three.png", smoothing=short)
        assert gate.metric(waits) > 4000, "the long one was served first"
        assert gate.metric("smoothgate_samples_total") > drawn + LEAST, "the long one stood still"
    assert answer.json()["certificates" if long_one == "answer" else "answer_certificate"]
    wait_until(lambda: gate.metric(waits) == 0, 30, lambda: "the long one was not dropped")


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

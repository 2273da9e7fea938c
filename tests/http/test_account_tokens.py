"""What an account costs at vLLM: its tokens are counted, and its part of the prefix cache is its own."""

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from smoothgate.gate import accounts
from tests.fake_vllm import USAGE, FakeVllm
from tests.quick_gate import OpenGate
from tests.waiting import wait_until
from tests.whole_service import Gate, data_uri

HELLO: dict[str, Any] = {"messages": [{"role": "user", "content": "Hello"}]}


@pytest.fixture
def keys() -> dict[str, str]:
    return {}


@pytest.fixture
def gate(open_gate: OpenGate, tmp_path: Path, keys: dict[str, str]) -> Gate:
    made = []
    for name, tokens in (("alice", USAGE["total_tokens"]), ("bob", None)):
        account, keys[name] = accounts.new(name, tokens_per_minute=tokens)
        made.append(account)
    account, keys["carol"] = accounts.new("carol", tokens_per_minute=1000, concurrent_requests=1)
    accounts.save(tmp_path / "accounts.json", [*made, account])
    return open_gate(accounts=tmp_path / "accounts.json")


def _ask(gate: Gate, key: str, **fields: Any) -> Any:
    headers = {"Authorization": f"Bearer {key}"}
    return gate.http.post("/v1/chat/completions", json=HELLO | fields, headers=headers)


@pytest.mark.parametrize("stream", [False, True])
def test_tokens_are_counted_as_vllm_counts_them(gate: Gate, keys: dict[str, str], stream: bool) -> None:
    first = _ask(gate, keys["alice"], stream=stream)
    assert first.status_code == 200
    if stream:
        assert '"usage"' not in first.text, "the client did not ask for it"
    _ask(gate, keys["alice"])
    refused = _ask(gate, keys["alice"], stream=stream)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "tokens_per_minute")
    assert int(refused.headers["retry-after"]) > 30
    assert all(_ask(gate, keys["bob"]).status_code == 200 for _ in range(5))


@pytest.mark.parametrize(
    ("fields", "most"),
    [({"max_tokens": 1500}, 1500), ({"max_completion_tokens": 750, "n": 2}, 1500), ({}, 1000)],
    ids=["limit", "limit of each choice", "no limit"],
)
def test_a_client_that_leaves_before_its_answer_pays_for_the_longest_one(
    gate: Gate, keys: dict[str, str], vllm: FakeVllm, fields: dict[str, int], most: int
) -> None:
    """vLLM does not say how far it came. Where the request sets no limit, it is a minute's worth."""
    started = time.monotonic()
    assert _ask(gate, keys["carol"]).status_code == 200
    vllm.open.clear()
    headers = {"Authorization": f"Bearer {keys['carol']}"}
    body = HELLO | fields
    gate.leave("/v1/chat/completions", body, headers=headers, once=lambda: len(vllm.bodies) == 2)
    vllm.open.set()
    wait_until(lambda: gate.metric("smoothgate_requests_in_flight") == 0, 20, lambda: "still in flight")
    refused = _ask(gate, keys["carol"])
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "tokens_per_minute")
    debt = (USAGE["total_tokens"] + most - 1000) * 60 / 1000
    elapsed = time.monotonic() - started
    assert debt - elapsed - 1 < int(refused.headers["retry-after"]) <= 1.5 * debt + 1


def test_a_client_that_leaves_a_vote_pays_for_the_generations_under_way(
    gate: Gate, keys: dict[str, str], vllm: FakeVllm
) -> None:
    """Each as the largest that came: 20 of 60 came, and the others are asked for."""
    over = threading.Event()

    def late(number: int) -> str:
        if number >= 20:
            over.wait(60)
        return "7"

    vllm.answers = late
    body = {
        "message": "What digit is shown?",
        "images": [data_uri("seven.png")],
        "smoothing": {"certify": "answer", "sigma": 0.5, "target": {"eps": 0.5}},
        "stream": True,
    }
    headers = {"Authorization": f"Bearer {keys['carol']}"}
    try:
        with gate.http.stream("POST", "/v1/chat", json=body, headers=headers):
            wait_until(lambda: len(vllm.bodies) == 60, 60, lambda: f"{len(vllm.bodies)} of 60 were asked")
        wait_until(lambda: gate.metric("smoothgate_requests_in_flight") == 0, 20, lambda: "still in flight")
    finally:
        over.set()
    vllm.answers = None
    refused = _ask(gate, keys["carol"])
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "tokens_per_minute")
    debt = (60 * USAGE["total_tokens"] - 1000) * 60 / 1000
    assert debt - 30 < int(refused.headers["retry-after"]) <= 1.5 * debt + 1


def test_a_client_that_asks_for_its_usage_gets_it(gate: Gate, keys: dict[str, str]) -> None:
    answer = _ask(gate, keys["bob"], stream=True, stream_options={"include_usage": True})
    assert '"total_tokens": 46' in answer.text


def test_each_account_has_a_part_of_the_prefix_cache_of_its_own(
    gate: Gate, keys: dict[str, str], vllm: FakeVllm
) -> None:
    for name in ("alice", "bob", "bob"):
        _ask(gate, keys[name])
    alice, bob, again = (body["cache_salt"] for body in vllm.bodies)
    assert alice != bob
    assert bob == again
    assert keys["bob"] not in bob

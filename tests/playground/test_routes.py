"""What the page asks of the service, and who may see it."""

import json
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser

from smoothgate.bundled import DEMO
from smoothgate.gate import accounts
from smoothgate.http.page_headers import POLICY
from smoothgate.vision.png import png_data_uri
from tests.fake_vllm import FakeVllm
from tests.playground.browser import answered, chromium, opened
from tests.quick_gate import OpenGate, odd_picture
from tests.sse_data import sse_data
from tests.whole_service import Gate, data_uri

ATTACK: dict[str, Any] = {"target": 3}


def _events(gate: Gate, **fields: Any) -> Generator[dict[str, Any]]:
    body = ATTACK | {"image": data_uri("seven.png")} | fields
    with gate.http.stream("POST", "/v1/playground/attack", json=body) as response:
        assert response.status_code == 200, response.read()
        for line in response.iter_lines():
            for data in sse_data([line]):
                if data != "[DONE]":
                    yield json.loads(data)


def test_the_page_has_a_policy_and_no_script_or_style_in_it(quick_gate: Gate) -> None:
    page = quick_gate.http.get("/")
    assert page.status_code == 200
    assert page.headers["content-security-policy"] == POLICY
    assert "unsafe" not in POLICY
    assert "<style" not in page.text
    assert " style=" not in page.text
    assert page.text.count("<script") == page.text.count('<script type="module" src=')
    for name in ("main.js", "style.css", "samples/seven.png", "verify/vendor/tweetnacl/LICENSE"):
        assert quick_gate.http.get(f"/playground/{name}").status_code == 200
    for name in ("../settings.py", "%2e%2e/page.py", "nothing.js"):
        assert quick_gate.http.get(f"/playground/{name}").status_code == 404


def test_what_is_behind_a_certificate_is_its_own_samples(open_gate: OpenGate) -> None:
    gate = open_gate(cache_mib=16)
    body = {"images": [data_uri("seven.png")]}
    (certificate,) = gate.http.post("/v1/certify", json=body).json()["certificates"]
    (seen,) = gate.http.post("/v1/playground/look", json=body).json()["pictures"]
    assert int(seen["seed"], 16) == int(certificate["noise"]["seed"], 16)
    assert len(seen["scores"]) == certificate["noise"]["n_certify"]
    assert sum(seen["scores"]) / len(seen["scores"]) == pytest.approx(certificate["score_estimate"], abs=1e-4)
    assert len({seen["canvas"], seen["noisy"], seen["purified"]}) == 3
    refused = gate.http.post("/v1/playground/look", json={"images": []})
    assert refused.status_code == 400
    assert set(refused.json()["error"]) == {"message", "type", "param", "code"}


def test_an_attack_stays_within_its_ball_and_is_computed_anew(quick_gate: Gate) -> None:
    found = [{e["stage"]: e for e in _events(quick_gate, eps=8 / 255)} for _ in range(2)]
    for events in found:
        assert set(events) == {"crafting", "crafted"}
        assert 7 / 255 < events["crafted"]["linf"] <= 8 / 255 + 1e-6
    assert found[0]["crafted"]["attacked"] != found[1]["crafted"]["attacked"]


@pytest.mark.parametrize(
    "fields",
    [{"eps": 0.9}, {"target": 10}, {"norm": "l1"}, {"sigma": 9.0}, {"smoothing": {}}, {"image": "data:,x"}],
)
def test_an_attack_that_is_not_offered_is_refused(quick_gate: Gate, fields: dict[str, Any]) -> None:
    body = ATTACK | {"image": data_uri("seven.png")} | fields
    refused = quick_gate.http.post("/v1/playground/attack", json=body)
    assert refused.status_code in (400, 422)
    assert set(refused.json()["error"]) == {"message", "type", "param", "code"}


def test_the_model_without_smoothgate_answers(quick_gate: Gate, vllm: FakeVllm) -> None:
    route = "/v1/playground/undefended"
    body = {"image": data_uri("seven.png"), "message": "What digit is shown?"}
    assert quick_gate.http.post(route, json=body).json() == {"answer": vllm.text}
    assert len(vllm.bodies) == 1
    wrongs: list[dict[str, Any]] = [{"image": "data:,x"}, {"message": ""}, {"smoothing": {}}]
    for wrong in wrongs:
        refused = quick_gate.http.post(route, json=body | wrong)
        assert refused.status_code in (400, 422)
        assert set(refused.json()["error"]) == {"message", "type", "param", "code"}


def test_samples_are_known_and_an_odd_picture_is_not(quick_gate: Gate) -> None:
    def known(image: str) -> Any:
        return quick_gate.http.post("/v1/playground/likeness", json={"image": image}).json()

    for name in ("seven", "three", "two", "plain-five"):
        assert known(data_uri(f"{name}.png")) == {"known": True}
    assert known(png_data_uri(odd_picture())) == {"known": False}
    refused = quick_gate.http.post("/v1/playground/likeness", json={"image": "data:,x"})
    assert refused.status_code == 400


def test_the_vote_is_shown_while_it_is_held_and_an_abstention_plainly(
    quick_gate: Gate, vllm: FakeVllm, browser: Browser
) -> None:
    def split(number: int) -> str:
        time.sleep(0.05)
        return f"The digit is {number % 3}."

    vllm.answers = split
    with opened(browser, quick_gate.url) as page:
        page.wait_for_selector("#with-body .votes:has-text('noisy copies have answered')")
        assert answered(page) == "The digit is 0."
        assert page.locator("#outcome").inner_text() == "abstained"
        assert page.locator("#radius").inner_text().startswith("Nothing is proved")
        assert page.locator("#with-body .votes .bar").count() == 3
        assert page.locator("#columns .good").count() == 0


@pytest.fixture
def enforcing(open_gate: OpenGate) -> str:
    """The address of a service that refuses answers that are not certified."""
    return open_gate(certify="answer", policy="enforce", policy_radius=0.5).url


def test_a_refusal_by_policy_is_shown_plainly(enforcing: str, vllm: FakeVllm, browser: Browser) -> None:
    vllm.answers = lambda number: f"The digit is {number % 2}."
    with opened(browser, enforcing) as page:
        page.wait_for_selector("#with-body .refusal")
        assert "could not be certified" in page.locator("#with-body .refusal").inner_text()
        assert page.locator("#outcome").inner_text() == "refused"
        assert page.locator("#target option").first.inner_text() == "0.50", "what the policy allows"


def test_one_attack_runs_at_a_time_and_ends_when_nobody_watches(quick_gate: Gate) -> None:
    first = _events(quick_gate, method="adaptive")
    next(first)
    busy = quick_gate.http.post("/v1/playground/attack", json=ATTACK | {"image": data_uri("seven.png")})
    assert (busy.status_code, busy.json()["error"]["code"]) == (429, "laboratory_busy")
    assert int(busy.headers["retry-after"]) >= 1
    first.close()
    end = time.monotonic() + 30
    while quick_gate.http.post("/v1/playground/attack", json=ATTACK | {"image": "x"}).status_code == 429:
        assert time.monotonic() < end
        time.sleep(0.2)


@pytest.fixture
def key(tmp_path: Path) -> str:
    account, key = accounts.new("alice", requests_per_minute=None, samples_per_minute=None)
    accounts.save(tmp_path / "accounts.json", [account])
    return key


@pytest.fixture
def closed(open_gate: OpenGate, tmp_path: Path, key: str) -> str:
    """The address of a service with accounts."""
    return open_gate(accounts=tmp_path / "accounts.json").url


@pytest.fixture
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


def test_a_key_is_asked_for_once_and_kept_in_the_tab(closed: str, key: str, browser: Browser) -> None:
    context = browser.new_context()
    context.set_default_timeout(60_000)
    page = context.new_page()
    page.goto(closed)
    page.wait_for_selector("#key-dialog[open]")
    page.fill("#key", key)
    page.click("#key-form .primary")
    page.wait_for_selector("body[data-started]")
    assert page.evaluate("Object.values(sessionStorage)") == [key]
    assert page.evaluate("localStorage.length") == 0
    page.reload()
    page.wait_for_selector("body[data-started]")
    assert page.locator("#key-dialog[open]").count() == 0
    assert page.locator("#laboratory").is_hidden(), "no attacks where there are accounts"
    context.close()


def test_only_what_holds_no_secret_is_open(closed: str, key: str) -> None:
    with httpx.Client(base_url=closed) as http:
        for path in ("/", "/playground/main.js", "/playground/samples/seven.png"):
            assert http.get(path).status_code == 200
            assert key not in http.get(path).text
        for path in ("/v1/playground", "/playground/nothing.js", "/metrics"):
            assert http.get(path).status_code == 401, path
        assert http.post("/v1/playground/look", json={}).status_code == 401
        assert http.post("/v1/playground/likeness", json={}).status_code == 401
        assert http.post("/v1/playground/undefended", json={}).status_code == 401
        assert http.post("/v1/playground/attack", json={}).status_code == 401
        there = http.get("/v1/playground", headers={"Authorization": f"Bearer {key}"})
        assert there.json()["laboratory"] is None


def test_it_can_be_switched_off(open_gate: OpenGate) -> None:
    gate = open_gate(playground=False)
    assert gate.http.get("/").status_code == 404
    assert gate.http.get("/v1/playground").status_code == 404


def test_another_model_has_no_samples_or_questions_of_the_demo_model(open_gate: OpenGate) -> None:
    """The same files, named as a folder: nobody knows what they answer."""
    gate = open_gate(playground=True, model=str(DEMO.model), psm=DEMO.psm, ready=False)
    about = gate.http.get("/v1/playground").json()
    assert (about["samples"], about["first_sample"], about["questions"]) == ([], None, [])
    assert (about["choices"], about["likeness"]) == (["yes", "no"], False)
    assert gate.http.get("/playground/samples/seven.png").status_code == 404
    assert gate.http.get("/").status_code == 200


def test_the_photographs_model_has_its_own_samples_and_neither_attacks_nor_likeness(
    open_gate: OpenGate,
) -> None:
    gate = open_gate(model="photos", ready=False)
    about = gate.http.get("/v1/playground").json()
    assert (about["samples"], about["first_sample"]) == (["bag", "coat", "dress", "sneaker"], "sneaker")
    assert (about["questions"][0], about["choices"][7]) == ("What is shown?", "A photo of a sneaker.")
    assert (about["likeness"], about["laboratory"]) == (False, None)
    assert "clothes" in about["hint"]
    assert gate.http.get("/playground/samples/sneaker.png").status_code == 200
    assert gate.http.get("/playground/samples/seven.png").status_code == 404

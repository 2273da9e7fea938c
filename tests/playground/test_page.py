"""The page on the real service, as people use it: with a mouse, by keyboard, on a phone, in the dark."""

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from smoothgate.settings import Settings
from smoothgate_lab.evaluation.running_service import free_port
from tests.node import install
from tests.playground.browser import ask, attack, choose, draw, fewer, opened
from tests.relay import relaying
from tests.whole_service import Gate
from tests.whole_service import opened as running_service

pytestmark = pytest.mark.engine


def _proof(page: Page) -> int:
    """How many points the curve of the bound has."""
    page.wait_for_selector("#certificate .line.layers")
    points = page.locator("#certificate .line.layers").get_attribute("points")
    assert points is not None
    return len(points.split())


def test_a_drawn_digit_is_read_and_certified_and_asked_about_again(gate: Gate, browser: Browser) -> None:
    with opened(browser, gate.url) as page:
        fewer(page)
        draw(page, (0.25, 0.25), (0.72, 0.25), (0.42, 0.85))
        assert ask(page, "What digit is shown?") == "The digit is 7."
        assert _proof(page) > 10
        assert page.locator("#outcome").inner_text() in ("bounded", "abstained")
        page.wait_for_selector(".samples-seen .bar")
        assert "the samples of this certificate" in page.locator(".samples-seen").inner_text()
        assert page.locator(".samples-seen img").count() == 3
        assert ask(page, "What color is the background?") == "The background is blue."


def verified(page: Page) -> dict[str, Any]:
    """The certificate of an answer, as the page shows it, after a check that it passed."""
    fewer(page)
    choose(page, "seven")
    ask(page, "What digit is shown?")
    page.click("#verify")
    page.wait_for_selector("#verified.good")
    page.click("text=The certificate itself")
    certificate: dict[str, Any] = json.loads(page.input_value("#raw"))
    return certificate


def forged(certificate: dict[str, Any]) -> dict[str, Any]:
    """The same with another signature."""
    head, body, signature = certificate["jws"].split(".")
    other = ("A" if signature[0] != "A" else "B") + signature[1:]
    return certificate | {"jws": f"{head}.{body}.{other}"}


def test_a_signature_is_checked_and_a_changed_certificate_refused(gate: Gate, browser: Browser) -> None:
    with opened(browser, gate.url) as page:
        told = verified(page)

        def refusal(changed: dict[str, Any]) -> str:
            page.fill("#raw", json.dumps(changed))
            page.click("#verify")
            page.wait_for_selector("#verified.bad")
            return page.locator("#verified").inner_text()

        radius = told["radius"] | {"value": told["radius"]["value"] + 1}
        assert "radius.value was changed" in refusal(told | {"radius": radius})
        assert "does not fit" in refusal(forged(told))
        page.fill("#raw", json.dumps(told))
        page.click("#verify")
        page.wait_for_selector("#verified.good")


def test_where_the_browser_knows_no_ed25519_the_page_checks_by_itself(gate: Gate, browser: Browser) -> None:
    with opened(browser, gate.url) as page:
        page.evaluate("Object.defineProperty(window, 'crypto', { value: {} })")
        told = verified(page)
        page.fill("#raw", json.dumps(forged(told)))
        page.click("#verify")
        page.wait_for_selector("#verified.bad")


def test_an_attack_changes_the_bare_model_s_answer_and_not_the_defended_one(
    gate: Gate, browser: Browser
) -> None:
    with opened(browser, gate.url) as page:
        fewer(page)
        choose(page, "seven")
        attack(page, 3)
        for side, answer in (("undefended", "The digit is 3."), ("defended", "The digit is 7.")):
            said = page.locator(f"#{side} dd").all_inner_texts()
            assert said[:2] == ["The digit is 7.", answer]
        cosines = [
            float(page.locator(f"#{side} dd").nth(2).inner_text()) for side in ("undefended", "defended")
        ]
        assert cosines[0] < cosines[1] - 0.3
        assert page.locator("#attack-result .views img").count() == 3


def test_an_attack_can_be_stopped(gate: Gate, browser: Browser) -> None:
    with opened(browser, gate.url) as page:
        choose(page, "seven")
        page.select_option("#attack-method", "adaptive")
        page.click("#attack-start")
        page.wait_for_selector("#attack-step:text('step')")
        page.click("#attack-stop")
        page.wait_for_selector("#attack-start")
        assert page.locator("#attack-step").inner_text() == "stopped"
        fewer(page)
        page.select_option("#attack-method", "undefended")
        page.wait_for_timeout(3000)
        attack(page, 3)


def test_everything_is_reached_by_keyboard(gate: Gate, browser: Browser) -> None:
    with opened(browser, gate.url) as page:
        fewer(page)

        def tab_to(selector: str) -> None:
            for _ in range(60):
                page.keyboard.press("Tab")
                if page.evaluate("selector => document.activeElement.matches(selector)", selector):
                    return
            raise AssertionError(f"{selector} is not reached")

        tab_to("#canvas")
        for key in (*["ArrowUp"] * 7, "Space", *["ArrowDown"] * 14, "Space"):
            page.keyboard.press(key)
        drawn = "document.querySelector('#canvas').getContext('2d').getImageData(144, 144, 1, 1).data[0]"
        assert page.evaluate(drawn) > 200, "white ink on the blue paper"
        tab_to("[aria-label='Sample: seven']")
        page.keyboard.press("Enter")
        page.wait_for_selector("#board-hint", state="hidden")
        tab_to("#question")
        page.keyboard.type("What digit is shown?")
        page.keyboard.press("Enter")
        page.wait_for_selector("#verify")
        assert page.locator(".theirs span").inner_text() == "The digit is 7."
        tab_to("#verify")
        page.keyboard.press("Enter")
        page.wait_for_selector("#verified.good")


def test_it_fits_a_phone(gate: Gate, browser: Browser) -> None:
    phone = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}
    with opened(browser, gate.url, **phone) as page:
        fewer(page)
        choose(page, "three")
        assert ask(page, "What digit is shown?") == "The digit is 3."
        page.wait_for_selector(".samples-seen .bar")
        assert page.evaluate("document.documentElement.scrollWidth") == 390


def test_axe_finds_nothing_serious_in_light_and_dark(
    gate: Gate, browser: Browser, pytestconfig: pytest.Config
) -> None:
    folder = install(Path(__file__).parent / "node" / "package.json", pytestconfig.cache)
    axe = (folder / "node_modules/axe-core/axe.min.js").read_text()
    grounds = {}
    for scheme in ("light", "dark"):
        with opened(browser, gate.url, color_scheme=scheme, bypass_csp=True) as page:
            fewer(page)
            choose(page, "seven")
            ask(page, "What digit is shown?")
            page.wait_for_selector(".samples-seen .bar")
            if scheme == "dark":
                attack(page, 3)
            page.evaluate("for (const each of document.querySelectorAll('details')) each.open = true")
            page.evaluate(axe)
            found = page.evaluate("axe.run()")
            grounds[scheme] = page.evaluate("getComputedStyle(document.body).backgroundColor")
        serious = [v for v in found["violations"] if v["impact"] in ("serious", "critical")]
        assert not serious, json.dumps(serious, indent=1)
        assert len(found["passes"]) > 10
    assert grounds["light"] != grounds["dark"]


def test_a_dead_engine_is_said_clearly_and_the_page_goes_on_by_itself(
    demo_vllm: str, browser: Browser
) -> None:
    port, vllm = free_port(), int(demo_vllm.rpartition(":")[2])
    settings = Settings(_env_file=None, engine_url=f"http://127.0.0.1:{port}", canary_seconds=0)
    with ExitStack() as stack:
        relay = stack.enter_context(relaying(port, vllm))
        # In a thread of its own: in this one the browser's event loop runs.
        with ThreadPoolExecutor(1) as pool:
            gate = pool.submit(stack.enter_context, running_service(settings)).result()
        gate.wait_ready()
        page = stack.enter_context(opened(browser, gate.url))
        fewer(page)
        relay.kill()
        page.wait_for_selector("#banner:not([hidden])")
        assert "vLLM does not answer" in page.locator("#banner").inner_text()
        choose(page, "seven")
        page.fill("#question", "What digit is shown?")
        page.click("#send")
        page.wait_for_selector(".message.bad")
        page.wait_for_selector("#strip-engine.bad")
        relay.wait()
        stack.enter_context(relaying(port, vllm))
        page.wait_for_selector("#banner", state="hidden")
        assert ask(page, "What digit is shown?") == "The digit is 7."

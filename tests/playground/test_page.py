"""The page on the real service, as people use it: with a mouse, by keyboard, on a phone, in the dark."""

import io
import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, FilePayload, Page, Route, expect

from smoothgate.settings import Settings
from smoothgate_lab.evaluation.running_service import free_port
from tests.node import install
from tests.playground.browser import answered, ask, attack, choose, draw, opened, opened_details
from tests.relay import relaying
from tests.whole_service import SAMPLES, Gate
from tests.whole_service import opened as running_service

pytestmark = pytest.mark.engine


def test_a_sample_and_its_certified_answer_are_there_at_the_start(gate: Gate, browser: Browser) -> None:
    with opened(browser, gate.url) as page:
        assert answered(page) == "The digit is 7."
        assert page.locator("#without-body .answer").inner_text() == "The digit is 7."
        size = "1.3 pixels, or 1.5 of 255 levels everywhere"
        assert page.locator("#radius").inner_text() == f"No change of up to {size}, turns this answer."
        assert page.locator("#outcome").inner_text() == "certified"
        units = page.locator("#with-body").inner_text()
        assert "0.50 at the encoder's 48 × 48" in units
        assert "1.98 in the 192 × 192 pixels that you sent" in units
        assert page.locator("#with-body .votes .bar").count() == 1
        assert page.locator("#with-body .line.layers").count() == 1, "the curve behind the radius"
        assert page.locator("#columns .good").count() == 0, "no colour that says the answer is right"


def test_a_drawn_digit_is_certified_and_nothing_of_another_picture_stays(
    gate: Gate, browser: Browser
) -> None:
    with opened(browser, gate.url) as page:
        answered(page)
        draw(page, (0.25, 0.25), (0.72, 0.25), (0.42, 0.85))
        assert page.locator("#radius").count() == 0
        assert page.locator("#outcome").is_hidden()
        assert ask(page, "What digit is shown?") == "The digit is 7."
        assert page.locator("#with-body .caution").count() == 0
        page.click("text=More choices")
        page.select_option("#form", "choices")
        page.fill("#choices", "The background is blue., The background is green.")
        assert ask(page, "What color is the background?") == "The background is blue."
        assert page.locator("#outcome").inner_text() == "certified"


def test_the_size_of_a_change_is_told_in_the_pixels_that_are_known(gate: Gate, browser: Browser) -> None:
    def sent(mode: str) -> FilePayload:
        file = io.BytesIO()
        Image.open(SAMPLES / "seven.png").convert(mode).save(file, "PNG")
        return FilePayload(name="seven.png", mimeType="image/png", buffer=file.getvalue())

    def radius(mode: str) -> str:
        page.set_input_files("#file", sent(mode))
        page.wait_for_selector("#with-body .empty")
        ask(page, "What digit is shown?")
        return page.locator("#radius").inner_text()

    with opened(browser, gate.url) as page:
        answered(page)
        assert " 1.3 pixels, or 1.5 of 255 levels" in radius("L"), "a grey value is one number, not three"
        assert " 0.084 pixels of the encoder's input, or 1.5 of 255 levels" in radius("P")


def test_features_that_were_certified_before_say_so(gate: Gate, browser: Browser) -> None:
    with opened(browser, gate.url) as page:
        for _ in range(2):
            ask(page, "What digit is shown?")
            opened_details(page)
        assert "Outcome: bounded, cached." in page.locator("#features").inner_text()


def test_white_noise_does_not_look_proved(gate: Gate, browser: Browser) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    with opened(browser, gate.url) as page:
        answered(page)
        noise = FilePayload(name="noise.png", mimeType="image/png", buffer=file.getvalue())
        page.set_input_files("#file", noise)
        page.wait_for_selector("#with-body .empty")
        page.select_option("#target", "0.25")
        ask(page, "What digit is shown?")
        assert "unlike those that the model was trained on" in page.locator(".caution").inner_text()
        assert page.locator("#outcome").get_attribute("class") == "badge unknown"
        page.click("text=More choices")
        page.select_option("#budget", "256")
        page.click("text=An attack of your own")
        page.click("#attack-start")
        page.wait_for_selector("#attack-result .caution")
        assert page.locator("main .good").count() == 0, "no colour that says that all is well"


def verified(page: Page) -> dict[str, Any]:
    """The certificate of the first answer, as the page shows it, after a check that it passed."""
    answered(page)
    page.click("text=The signed certificate of the answer")
    page.click("#answer-verify")
    page.wait_for_selector("#answer-verified.good")
    certificate: dict[str, Any] = json.loads(page.input_value("#answer-json"))
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
            page.fill("#answer-json", json.dumps(changed))
            page.click("#answer-verify")
            page.wait_for_selector("#answer-verified.bad")
            return page.locator("#answer-verified").inner_text()

        assert "differ from what was signed: radius" in refusal(told | {"radius": told["radius"] + 1})
        assert "does not fit" in refusal(forged(told))
        page.fill("#answer-json", json.dumps(told))
        page.click("#answer-verify")
        page.wait_for_selector("#answer-verified.good")


def test_where_the_browser_knows_no_ed25519_the_page_checks_by_itself(gate: Gate, browser: Browser) -> None:
    with opened(browser, gate.url) as page:
        page.evaluate("Object.defineProperty(window, 'crypto', { value: {} })")
        told = verified(page)
        page.fill("#answer-json", json.dumps(forged(told)))
        page.click("#answer-verify")
        page.wait_for_selector("#answer-verified.bad")


def test_an_attack_inside_the_radius_turns_the_answer_without_smoothgate_alone(
    gate: Gate, browser: Browser
) -> None:
    with opened(browser, gate.url) as page:
        said = attack(page, "inside")
        assert f"is inside the radius of {_radius(page)}: " in said
        for side, answer in (("undefended", "The digit is 2."), ("defended", "The digit is 7.")):
            found = page.locator(f"#{side} dd").all_inner_texts()
            assert found[:2] == ["The digit is 7.", answer]
        size, radius = (float(page.locator("#defended dd").nth(place).inner_text()) for place in (2, 4))
        assert size < radius
        assert page.locator("#attack-result .views img").count() == 3
        choose(page, "three")
        expect(page.locator("#attack-result *"), "nothing of another picture stays").to_have_count(0)


def test_an_attack_can_be_stopped(gate: Gate, browser: Browser) -> None:
    with opened(browser, gate.url) as page:
        answered(page)
        page.click("text=An attack of your own")
        page.select_option("#attack-method", "adaptive")
        page.click("#attack-start")
        page.wait_for_selector("#attack-step:text('step')")
        page.click("#attack-stop")
        page.wait_for_selector("#attack-stop", state="hidden")
        assert page.locator("#attack-step").inner_text() == "stopped"


def test_everything_is_reached_by_keyboard(gate: Gate, browser: Browser) -> None:
    with opened(browser, gate.url) as page:
        answered(page)

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
        page.keyboard.press("Control+A")
        page.keyboard.type("What digit is shown?")
        page.keyboard.press("Enter")
        assert answered(page) == "The digit is 7."
        tab_to("details:has(#answer-verify) summary")
        page.keyboard.press("Enter")
        tab_to("#answer-verify")
        page.keyboard.press("Enter")
        page.wait_for_selector("#answer-verified.good")


def test_a_question_waits_for_the_sample_that_was_chosen_before_it(gate: Gate, browser: Browser) -> None:
    with opened(browser, gate.url) as page:
        answered(page)
        held: list[Route] = []

        def hold(route: Route) -> None:
            held.append(route)

        page.route("**/playground/samples/three.png", hold)
        with page.expect_request("**/playground/samples/three.png"):
            page.get_by_label("Sample: three").click()
        page.fill("#question", "What digit is shown?")
        page.click("#send")
        held.pop().continue_()
        assert answered(page) == "The digit is 3."


def test_a_sample_that_does_not_arrive_is_said_and_the_page_goes_on(gate: Gate, browser: Browser) -> None:
    with opened(browser, gate.url) as page:
        answered(page)
        page.route("**/playground/samples/three.png", lambda route: route.abort())
        page.get_by_label("Sample: three").click()
        page.wait_for_selector("#board-hint:text('That picture cannot be read.')")
        assert ask(page, "What digit is shown?") == "The digit is 7."
        page.route("**/playground/samples/*.png", lambda route: route.abort())
        page.fill("#question", "")
        page.click("#clear")
        page.click("#preset-inside")
        page.wait_for_selector("#board-hint:text('That picture cannot be read.')")
        assert page.locator("#attack-progress").is_hidden()
        assert page.locator("#attack-result").inner_text() == "", "no other picture is attacked"


def test_it_fits_a_phone(gate: Gate, browser: Browser) -> None:
    phone: dict[str, Any] = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}
    with opened(browser, gate.url, **phone) as page:
        answered(page)
        choose(page, "three")
        assert ask(page, "What digit is shown?") == "The digit is 3."
        opened_details(page)
        assert page.evaluate("document.documentElement.scrollWidth") == 390


def _radius(page: Page) -> str:
    """The radius beside the defended answer."""
    return page.locator("#defended dd").nth(4).inner_text()


def test_axe_finds_nothing_serious_in_light_and_dark(
    gate: Gate, browser: Browser, pytestconfig: pytest.Config
) -> None:
    folder = install(Path(__file__).parent / "node" / "package.json", pytestconfig.cache)
    axe = (folder / "node_modules/axe-core/axe.min.js").read_text()
    grounds = {}
    for scheme in ("light", "dark"):
        with opened(browser, gate.url, color_scheme=scheme, bypass_csp=True) as page:
            answered(page)
            if scheme == "dark":
                page.click("text=More choices")
                page.select_option("#budget", "256")
                said = attack(page, "beyond")
                assert f"times as large as the radius of {_radius(page)}. " in said
                ask(page, "What digit is shown?")
            opened_details(page)
            assert "the samples of this certificate" in page.locator(".samples-seen").inner_text()
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
        answered(page)
        relay.kill()
        page.wait_for_selector("#banner:not([hidden])")
        assert "vLLM does not answer" in page.locator("#banner").inner_text()
        page.click("#send")
        page.wait_for_selector("#with-body .refusal")
        page.wait_for_selector("#strip-engine.bad")
        relay.wait()
        stack.enter_context(relaying(port, vllm))
        page.wait_for_selector("#banner", state="hidden")
        page.wait_for_selector(".refusal", state="detached")
        assert ask(page, "What digit is shown?") == "The digit is 7."

"""Debian's Chromium, driven by Playwright, and what the tests do with the page in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from ctypes.util import find_library
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

from tests.programs import left_out, program

#: Long enough for two loaded cores, in milliseconds.
PATIENCE = 120_000


@contextmanager
def chromium() -> Iterator[Browser]:
    """A headless browser, without which the test is left out.

    It must be closed before anything in this thread runs an event loop of its own.
    """
    if find_library("atomic") is None:
        left_out("libatomic.so.1, which Playwright needs, is missing: install the Debian package libatomic1")
    path = program("chromium", "chromium-browser", "google-chrome", package="the Debian package chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def opened(
    browser: Browser, url: str, *, started: str = "body[data-started]", **options: Any
) -> Iterator[Page]:
    """The page in a window of its own, started; an error in its scripts, or one that the policy stopped, is a
    failure.
    """
    options = {"viewport": {"width": 1400, "height": 1000}} | options
    context = browser.new_context(**options)
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on(
        "console", lambda message: wrong.append(message.text) if "Content Security" in message.text else None
    )
    try:
        page.goto(url)
        page.wait_for_selector(started)
        yield page
        assert not wrong
    finally:
        context.close()


def choose(page: Page, sample: str) -> None:
    """A bundled sample as the picture."""
    page.get_by_label(f"Sample: {sample}").click()
    page.wait_for_selector("#board-hint", state="hidden")


def draw(page: Page, *points: tuple[float, float]) -> None:
    """One stroke on the drawing area, through points in shares of its size."""
    box = page.locator("#canvas").bounding_box()
    assert box is not None
    places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*place, steps=12)
    page.mouse.up()


def ask(page: Page, question: str) -> str:
    """The certified answer to a question about the picture that is there."""
    page.wait_for_selector("#stop", state="hidden")
    page.fill("#question", question)
    page.click("#send")
    return answered(page)


def answered(page: Page) -> str:
    """The certified answer, once the page is not busy any more."""
    page.wait_for_selector("#stop", state="hidden")
    page.wait_for_selector("#with-body :is(.answer, .refusal)")
    refused = page.locator("#with-body .refusal").all_inner_texts()
    assert not refused, refused
    return page.locator("#with-body .answer").inner_text()


def opened_details(page: Page) -> None:
    """Everything that is folded, unfolded, with the certificate of the features."""
    page.evaluate("for (const each of document.querySelectorAll('details')) each.open = true")
    page.wait_for_selector(".samples-seen .bar")


def attack(page: Page, place: str) -> str:
    """A ready-made attack to its end, and what the page says about it."""
    page.click(f"#preset-{place}")
    page.wait_for_selector("#attack-stop:not([hidden])")
    page.wait_for_selector("#attack-stop", state="hidden")
    said = page.locator("#attack-result").inner_text()
    assert page.locator("#attack-verdict").count(), said
    return page.locator("#attack-verdict").inner_text()

"""`make screenshots`: the pictures of the page in the README, taken of a service that is started for it."""

from __future__ import annotations

import io
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image

from smoothgate_lab.evaluation.running_service import running
from tests.playground.browser import answered, ask, attack, choose, chromium, opened

_PHONE: dict[str, Any] = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}


def main(folder: Path) -> None:
    """Take them."""
    folder.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as logs,
        running(Path(logs, "log"), {"SMOOTHGATE_ENGINE_MAX_MODEL_LEN": "1024"}) as service,
        chromium() as browser,
    ):
        with opened(browser, service.url, viewport={"width": 1400, "height": 1060}) as page:
            answered(page)
            _save(page.screenshot(), folder / "playground.png")
            attack(page, "inside")
            page.mouse.move(0, 0)
            _save(page.locator("#laboratory").screenshot(), folder / "playground-attack.png")
        with opened(browser, service.url, color_scheme="dark", reduced_motion="reduce", **_PHONE) as page:
            choose(page, "three")
            ask(page, "What digit is shown?")
            page.evaluate("document.activeElement.blur()")
            page.evaluate("document.querySelector('#without').scrollIntoView()")
            _save(page.screenshot(), folder / "playground-phone.png")


def _save(shot: bytes, file: Path) -> None:
    """In 256 colours: a third of the size, and hardly to be told apart."""
    Image.open(io.BytesIO(shot)).convert("RGB").quantize(256).save(file, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

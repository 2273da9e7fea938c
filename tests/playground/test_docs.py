"""`GET /docs` in a browser that can reach this service and nothing else."""

from playwright.sync_api import Browser

from smoothgate.http.page_headers import POLICY
from tests.playground.browser import opened
from tests.whole_service import Gate


def test_the_documentation_of_the_api_needs_no_other_host(quick_gate: Gate, browser: Browser) -> None:
    asked: list[str] = []
    with opened(
        browser, f"{quick_gate.url}/docs#/Smoothgate/chat_v1_chat_post", started=".opblock.is-open"
    ) as page:
        page.on("request", lambda request: asked.append(request.url))
        page.reload()
        page.wait_for_selector(".opblock.is-open .opblock-body")
        shown = page.inner_text("body")
        assert "/v1/chat/completions" in shown
        assert "Certify the answer itself" in shown
    assert len(asked) >= 4
    assert {url for url in asked if not url.startswith((quick_gate.url, "data:"))} == set()


def test_its_files_have_the_policy(quick_gate: Gate) -> None:
    for path in ("/docs", "/docs/start.js", "/docs/vendor/swagger-ui/swagger-ui.css"):
        response = quick_gate.http.get(path)
        assert response.status_code == 200
        assert response.headers["content-security-policy"] == POLICY
    for path in ("/docs/", "/docs/nothing.js", "/docs/%2e%2e/app.py"):
        assert quick_gate.http.get(path).status_code == 404 or path == "/docs/"

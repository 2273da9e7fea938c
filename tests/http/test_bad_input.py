"""Every bad input gets a 4xx in the one shape that names the field, and the service goes on."""

import base64
import hashlib
import io
import os
import signal
from typing import Any

import pytest
from PIL import Image

from smoothgate.engine.placeholders import TEXT_KEYS
from smoothgate.gate.image_fetcher import Fetcher
from tests.fake_vllm import TEXT
from tests.processes import descendants
from tests.quick_gate import OpenGate
from tests.whole_service import SAMPLES, Gate, data_uri

GOOD = data_uri("seven.png")
PNG = (SAMPLES / "seven.png").read_bytes()


def _uri(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode()


def _bomb() -> bytes:
    out = io.BytesIO()
    Image.new("1", (30_000, 30_000)).save(out, "PNG")
    return out.getvalue()


def _smoothing(**fields: Any) -> dict[str, Any]:
    return {"message": "What digit is shown?", "images": [GOOD], "smoothing": fields}


CHAT: list[tuple[str, dict[str, Any], int, str]] = [
    ("not an image", {"message": "x", "images": [_uri(b"hello")]}, 422, "images.0"),
    ("truncated", {"message": "x", "images": [GOOD, _uri(PNG[:400])]}, 422, "images.1"),
    ("wrong base64", {"message": "x", "images": ["data:image/png;base64,%%%"]}, 400, "images.0"),
    ("no data URI", {"message": "x", "images": ["seven.png"]}, 400, "images.0"),
    ("a URL", {"message": "x", "images": ["https://example.com/a.png"]}, 422, "images.0"),
    ("a file URL", {"message": "x", "images": ["file:///etc/passwd"]}, 422, "images.0"),
    ("a bomb", {"message": "x", "images": [_uri(_bomb())]}, 413, "images.0"),
    ("too many", {"message": "x", "images": [GOOD] * 5}, 413, "images.4"),
    ("no message", {"images": [GOOD]}, 400, "message"),
    ("empty message", {"message": "  ", "images": [GOOD]}, 400, "message"),
    ("unknown field", {"message": "x", "imagse": [GOOD]}, 400, "imagse"),
    ("unknown smoothing", _smoothing(sgima=0.1), 400, "smoothing.sgima"),
    ("a seed", _smoothing(seed=1), 400, "smoothing.seed"),
    ("smoothing no object", {"message": "x", "smoothing": 5}, 400, "smoothing"),
    ("sigma zero", _smoothing(sigma=0), 400, "smoothing.sigma"),
    ("sigma too large", _smoothing(sigma=50), 422, "smoothing.sigma"),
    ("sigma no number", _smoothing(sigma="loud"), 400, "smoothing.sigma"),
    ("n negative", _smoothing(n_certify=-1), 400, "smoothing.n_certify"),
    ("n too large", _smoothing(n_certify=10**9), 422, "smoothing.n_certify"),
    ("n hopeless", _smoothing(n_certify=3), 422, "smoothing.n_certify"),
    ("alpha laxer", _smoothing(alpha=0.5), 422, "smoothing.alpha"),
    ("eps negative", _smoothing(eps=[-1.0]), 422, "smoothing.eps"),
    ("temperature", {"message": "x", "temperature": 9}, 400, "temperature"),
    ("history", {"message": "x", "history": [{"role": "user", "content": 5}]}, 400, "history.0.content"),
    (
        "an image in the history",
        {"message": "x", "history": [{"content": [{"type": "image_url", "image_url": "data:,"}]}]},
        400,
        "history.0.content.0",
    ),
]  # fmt: skip

COMPLETIONS: list[tuple[str, dict[str, Any], int, str | None]] = [
    ("no messages", {}, 400, "messages"),
    ("no list", {"messages": "hello"}, 400, "messages"),
    ("no object", {"messages": ["hello"]}, 400, "messages.0"),
    ("unknown model", {"model": "x", "messages": [{"role": "user", "content": "x"}]}, 404, "model"),
    *(
        (
            kind,
            {"messages": [{"role": "user", "content": [{"type": kind, kind: "x"}]}]},
            422,
            "messages.0.content.0",
        )
        for kind in (
            "image_embeds", "prompt_embeds", "input_audio", "audio_url", "video_url", "image_pil", "unheard",
        )
    ),
    *(
        (
            f"{other} in {kind}",
            {"messages": [{"role": "narrator", "content": [{"type": kind, key: "x", other: "x"}]}]},
            422,
            f"messages.0.content.0.{other}",
        )
        for kind, key in TEXT_KEYS.items()
        for other in ("uuid", "image_embeds", "image_url")
    ),
    ("no type", {"messages": [{"role": "user", "content": [{"text": "x"}]}]}, 400, "messages.0.content.0"),
    (
        "no url",
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
        400,
        "messages.0.content.0.image_url",
    ),
    (
        "unknown smoothing",
        {"messages": [{"role": "user", "content": "x"}], "smoothing": {"sigmoid": 1}},
        400,
        "smoothing.sigmoid",
    ),
    ("no text", {"messages": [{"content": [{"type": "text"}]}]}, 400, "messages.0.content.0.text"),
]  # fmt: skip


def _check(response: Any, status: int, param: str | None) -> None:
    assert response.status_code == status, response.text
    assert set(response.json()) == {"error"}
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["param"] == param
    assert error["message"]
    assert error["code"]


@pytest.mark.parametrize(("body", "status", "param"), [c[1:] for c in CHAT], ids=[c[0] for c in CHAT])
def test_chat(quick_gate: Gate, body: dict[str, Any], status: int, param: str) -> None:
    _check(quick_gate.http.post("/v1/chat", json=body), status, param)


@pytest.mark.parametrize(
    ("body", "status", "param"), [c[1:] for c in COMPLETIONS], ids=[c[0] for c in COMPLETIONS]
)
def test_completions(quick_gate: Gate, body: dict[str, Any], status: int, param: str | None) -> None:
    _check(quick_gate.http.post("/v1/chat/completions", json=body), status, param)
    _check(quick_gate.http.post("/v1/chat/completions", json=body | {"stream": True}), status, param)


@pytest.mark.parametrize("content", [b"", b"{", b"[1]"])
def test_no_json_in_anthropics_form(quick_gate: Gate, content: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    refused = quick_gate.http.post("/v1/messages", content=content, headers=headers)
    assert refused.status_code == 400
    assert refused.json()["type"] == "error"
    assert refused.json()["error"]["type"] == "invalid_request_error"


def test_certify(quick_gate: Gate) -> None:
    _check(quick_gate.http.post("/v1/certify", json={"images": []}), 400, "images")
    _check(
        quick_gate.http.post("/v1/certify", json={"images": [GOOD], "smoothing": {"mode": "off"}}),
        400,
        "smoothing.mode",
    )


@pytest.mark.parametrize(
    "path",
    [
        "/v1/chat",
        "/v1/chat/completions",
        "/v1/certify",
        "/v1/embeddings",
        "/v1/responses",
    ],
)
@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe", b"[" * 100_000])
def test_no_json(quick_gate: Gate, path: str, content: bytes) -> None:
    _check(
        quick_gate.http.post(path, content=content, headers={"Content-Type": "application/json"}), 400, None
    )


def test_a_form_with_a_strange_file(quick_gate: Gate) -> None:
    _check(quick_gate.http.post("/v1/chat", data={"message": "x"}, files={"virus": b"x"}), 400, "virus")
    _check(quick_gate.http.post("/v1/chat", data={"message": "x"}, files={"image": b"x"}), 422, "images.0")
    _check(
        quick_gate.http.post("/v1/chat", data={"message": "x", "smoothing": "{"}, files={"image": PNG}),
        400,
        "smoothing",
    )


def test_a_body_too_large(open_gate: OpenGate) -> None:
    gate = open_gate(max_body_bytes=1000)
    _check(
        gate.http.post("/v1/chat", content=b" " * 1001, headers={"Content-Type": "application/json"}),
        413,
        None,
    )


def test_after_all_that_it_still_answers(quick_gate: Gate) -> None:
    assert quick_gate.ask("What digit is shown?", "seven.png").json()["answer"] == TEXT
    assert quick_gate.service.health.problems() == {}


def test_a_picture_behind_a_listed_url_is_fetched(
    open_gate: OpenGate, quick_gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fetching itself is tested in test_image_fetcher; here, that the way leads there."""
    asked = []

    async def fetch(self: Fetcher, url: str, param: str | None = None) -> bytes:
        asked.append((url, param))
        return PNG

    url = "https://pictures.example/seven.png"
    refused = quick_gate.ask("What digit is shown?", images=[url])
    assert (refused.status_code, refused.json()["error"]["code"]) == (422, "url_not_allowed")
    monkeypatch.setattr(Fetcher, "fetch", fetch)
    gate = open_gate(url_hosts=("pictures.example",))
    (certificate,) = gate.ask("What digit is shown?", images=[url]).json()["certificates"]
    assert certificate["image"]["sha256"] == hashlib.sha256(PNG).hexdigest()
    assert asked == [(url, "images.0")]


def test_a_picture_that_takes_too_long_to_decode_is_refused(open_gate: OpenGate) -> None:
    others = _decoders()
    gate = open_gate(decode_timeout_seconds=2.0)
    assert gate.ask("What digit is shown?", "seven.png").status_code == 200
    for decoder in _decoders() - others:
        os.kill(decoder, signal.SIGSTOP)  # as a decoder that is long at work, on any machine
    refused = gate.ask("What digit is shown?", "seven.png")
    assert (refused.status_code, refused.json()["error"]["code"]) == (422, "decode_timeout")
    assert refused.json()["error"]["param"] == "images.0"
    assert gate.metric("smoothgate_reserved_work") == 0
    assert gate.ask("What digit is shown?", "seven.png").status_code == 200


def _decoders() -> set[int]:
    return set(descendants(os.getpid(), "decoder_child"))

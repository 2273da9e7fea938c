"""What is asked for by a name in the path: the model, and the certificates of a request."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from random import Random
from urllib.parse import quote

from smoothgate.bundled import DEMO
from tests.fuzz.images import pictures
from tests.fuzz.request import LEAST, Request, json_request

SOURCE = "names"

MODELS, CERTIFICATES = "/v1/models/", "/v1/certificates/"
# Requests whose certificates are made, before they are asked for.
_KNOWN = 8
_ODD = (
    "", ".", "..", "../x", "a/b", "/", "%", "%2", "%00", "%ff", "%2e%2e%2fx", "%0a", "%22%7d", "*", "?a=b",
    "#a", ";a=b", "é", "schema", "null", "x" * 6000, quote("\u2028"), quote("a b"), quote('", "client": "b'),
)  # fmt: skip
_METHODS = ("GET", "GET", "GET", "GET", "GET", "HEAD", "POST", "DELETE", "OPTIONS")


def requests(rng: Random) -> Iterator[Request]:
    """Without end. The first ones have certificates made that the later ones ask for."""
    known = [f"fuzz-{rng.getrandbits(64):016x}" for _ in range(_KNOWN)]
    for name in known:
        yield _certified(name)
    while True:
        path, good = rng.choice(((MODELS, DEMO.served_name), (CERTIFICATES, rng.choice(known))))
        name = good if rng.random() < 0.4 else _changed(rng, good)
        yield Request(SOURCE, f"{path}{name[:40]}", rng.choice(_METHODS), path + name)


def _certified(name: str) -> Request:
    picture = base64.b64encode(pictures()["png"]).decode()
    body = {"images": [f"data:image/png;base64,{picture}"], "smoothing": LEAST}
    made = json_request(SOURCE, "a request with a name", "/v1/certify", body)
    return Request(
        SOURCE, made.what, made.method, made.path, (*made.headers, ("X-Request-Id", name)), made.body
    )


def _changed(rng: Random, name: str) -> str:
    odd = rng.choice(_ODD)
    at = rng.randrange(len(name) + 1)
    return rng.choice((odd, name + odd, odd + name, name[:at] + odd + name[at:], name[:at], name.upper()))

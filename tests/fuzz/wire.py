"""HTTP that is none: broken request lines, bodies cut off, headers without end."""

import json
from collections.abc import Callable, Iterator
from random import Random

from tests.fuzz.request import BOUNDARY, FEW_TOKENS, Raw

SOURCE = "wire"

_BODY = json.dumps({"message": "Hi", "max_tokens": FEW_TOKENS}).encode()
_FENCE = b"--" + BOUNDARY.encode()
_HOST = b"Host: gate\r\n"
_JSON = b"Content-Type: application/json\r\n"


def requests(rng: Random, *, patient: bool) -> Iterator[Raw]:
    """Without end; `patient`: also what is answered only when the time for a body is over."""
    kinds = [kind for kind in _KINDS.items() if patient or kind[0] not in _SLOW]
    while True:
        kind, (make, waits) = rng.choice(kinds)
        sent = make(rng)
        yield Raw(SOURCE, kind, sent, waits)


def _post(headers: bytes, body: bytes, path: bytes = b"/v1/chat") -> bytes:
    return b"POST " + path + b" HTTP/1.1\r\n" + _HOST + headers + b"\r\n" + body


def _get(path: bytes, headers: bytes = b"", method: bytes = b"GET", version: bytes = b"HTTP/1.1") -> bytes:
    return method + b" " + path + b" " + version + b"\r\n" + _HOST + headers + b"\r\n"


def _whole(headers: bytes = b"", body: bytes = _BODY, path: bytes = b"/v1/chat") -> bytes:
    return _post(_JSON + b"Content-Length: %d\r\n" % len(body) + headers, body, path)


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n" % len(data) + data + b"\r\n"


def _odd_path(rng: Random) -> bytes:
    return rng.choice((
        b"/" + b"a" * 20_000, b"/?" + b"a=b&" * 2000, b"/%", b"/%00", b"/%ff%fe", b"/../../etc/passwd",
        b"//", b"/v1//chat", b"/v1/chat/", b"*", b"http://elsewhere/v1/models", b"/v1/models#x",
        b"/docs", b"/openapi.json", b"/v1/models;a=b", b"/\xc3\xa9", b"/health/ready/",
        b"/.well-known/", b"/docs/oauth2-redirect",
    ))  # fmt: skip


def _odd_header(rng: Random) -> bytes:
    return rng.choice((
        b"X-Request-Id: " + b"a" * 5000, b"X-Request-Id: \xff", b"Authorization: Bearer " + b"k" * 9000,
        b"Authorization: Basic %%%", b"Authorization: \xe9", b"traceparent: 00-zz-zz-01",
        b"traceparent: 00-" + b"1" * 32 + b"-" + b"2" * 16 + b"-01", b"tracestate: " + b"a=b," * 500,
        b"Accept: \0", b"Expect: 100-continue", b"Cookie: " + b"a=b; " * 1000, b"Content-Encoding: gzip",
        b"Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA",
        b"Range: bytes=0-", b"Content-Type: text/plain\r\nContent-Type: image/png",
        b"baggage: " + b"a" * 9000,
    ))  # fmt: skip


def _part(disposition: bytes, body: bytes = b"Hi") -> bytes:
    return _FENCE + b"\r\nContent-Disposition: form-data; " + disposition + b"\r\n\r\n" + body + b"\r\n"


def _multipart(rng: Random) -> bytes:
    end = _FENCE + b"--"
    message = b'name="message"'
    part = _part(message)
    kind = f"multipart/form-data; boundary={BOUNDARY}".encode()
    kind, body = rng.choice((
        (b"multipart/form-data", part),
        (b"multipart/form-data; boundary=", part),
        (b'multipart/form-data; boundary="\xff"', part),
        (b"multipart/form-data; boundary=" + b"a" * 5000, part),
        (b"application/x-www-form-urlencoded", b"message=Hi&message=%ff"),
        (kind + b"; charset=nonsense", part + end),
        (kind, b""),
        (kind, part),
        (kind, _FENCE + b"\r\n\r\nHi\r\n" + end),
        (kind, _FENCE + b"\r\n" + b"A: b\r\n" * 500 + b"\r\nx\r\n" + end),
        (kind, part * 2000 + end),
        (kind, _part(b'name="' + b"a" * 9000 + b'"') + end),
        (kind, _part(message + b"; filename*=x''%ff") + end),
        (kind, _part(message, b"\xff\xfe") + end),
        (kind, _part(b'name="_charset_"', b"nonsense") + part + end),
    ))  # fmt: skip
    path = rng.choice((b"/v1/chat", b"/v1/certify"))
    return _post(b"Content-Type: " + kind + b"\r\nContent-Length: %d\r\n" % len(body), body, path)


def _kept_open(rng: Random) -> bytes:
    whole = _multipart(rng)
    end = whole.index(b"\r\n\r\n") + 4
    return whole[: max(end, len(whole) - 9)].replace(b"Content-Length: ", b"Content-Length: 9")


def _garbled(rng: Random) -> bytes:
    data = bytearray(_whole())
    for _ in range(rng.choice((1, 2, 8))):
        data[rng.randrange(len(data) - len(_BODY))] = rng.randrange(256)
    return bytes(data)


def _cut(rng: Random) -> bytes:
    whole = rng.choice(
        (_whole(), _post(_JSON + b"Transfer-Encoding: chunked\r\n", _chunk(_BODY) + b"0\r\n\r\n"))
    )
    return whole[: rng.randrange(1, len(whole))]


#: How each is made, and whether an answer is due.
_KINDS: dict[str, tuple[Callable[[Random], bytes], bool]] = {
    "noise": (lambda rng: rng.randbytes(rng.choice((1, 64, 4096))) + b"\r\n\r\n", False),
    "a garbled head": (_garbled, False),
    "cut off": (_cut, False),
    "cut off and kept open": (lambda _: _post(_JSON + b"Content-Length: 1000\r\n", _BODY), True),
    "a chunk too few": (lambda _: _post(_JSON + b"Transfer-Encoding: chunked\r\n", _chunk(_BODY)), True),
    "a method": (
        lambda rng: _get(b"/v1/chat", method=rng.choice((b"get", b"BREW", b"A" * 999, b"\0"))),
        True,
    ),
    "a method that exists": (
        lambda rng: _get(
            rng.choice((b"/v1/chat", b"/health/live", b"/nothing")),
            method=rng.choice((b"HEAD", b"OPTIONS", b"TRACE", b"DELETE", b"PATCH")),
        ),
        True,
    ),
    "a version": (
        lambda rng: _get(b"/", version=rng.choice((b"HTTP/9.9", b"HTTP/1.0", b"HTTP/2", b"", b"X" * 99))),
        True,
    ),
    "no request line": (
        lambda rng: rng.choice((b"\r\n\r\n\r\n\0\r\n\r\n", b": \r\n\r\n", b"GET\r\n\r\n")),
        True,
    ),
    "no host": (lambda _: b"GET /v1/models HTTP/1.1\r\n\r\n", True),
    "a path": (lambda rng: _get(_odd_path(rng)), True),
    "a header": (lambda rng: _whole(_odd_header(rng) + b"\r\n"), True),
    "a websocket": (
        lambda rng: _get(
            rng.choice((b"/v1/chat", b"/")),
            b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
        ),
        True,
    ),
    "a header without a colon": (lambda _: _whole(b"colonless\r\n"), True),
    "a header folded": (lambda _: _whole(b"X-A: b\r\n c\r\n"), True),
    "many headers": (
        lambda rng: _whole(b"".join(b"X-%d: y\r\n" % i for i in range(rng.choice((100, 2000))))),
        True,
    ),
    "a long header": (lambda rng: _whole(b"X-Long: " + b"y" * rng.choice((60_000, 400_000)) + b"\r\n"), True),
    "headers without end": (lambda _: _whole()[: -1 - len(_BODY)] + b"X-Y: z\r\n" * 20_000, False),
    "lengths": (
        lambda rng: _post(
            _JSON
            + b"Content-Length: "
            + rng.choice((b"-1", b"x", b"", b"1e3", b"0x10", b"9" * 30))
            + b"\r\n",
            _BODY,
        ),
        True,
    ),
    "two lengths": (lambda _: _post(_JSON + b"Content-Length: 5\r\nContent-Length: 6\r\n", _BODY), True),
    "a length too short": (lambda _: _post(_JSON + b"Content-Length: 5\r\n", _BODY), True),
    "a length and chunks": (
        lambda _: _whole(b"Transfer-Encoding: chunked\r\n", _chunk(_BODY) + b"0\r\n\r\n"),
        True,
    ),
    "a chunk of no size": (
        lambda _: _post(_JSON + b"Transfer-Encoding: chunked\r\n", b"zz\r\nabc\r\n"),
        True,
    ),
    "a chunk without end": (
        lambda _: _post(_JSON + b"Transfer-Encoding: chunked\r\n", b"ffffffffffffffffff\r\nabc\r\n"),
        True,
    ),
    "another coding": (lambda _: _post(_JSON + b"Transfer-Encoding: gzip\r\n", _BODY), False),
    "tiny chunks": (
        lambda _: _post(
            _JSON + b"Transfer-Encoding: chunked\r\n",
            b"".join(_chunk(_BODY[i : i + 1]) for i in range(len(_BODY))) + b"0\r\n\r\n",
        ),
        True,
    ),
    "trailers": (
        lambda _: _post(_JSON + b"Transfer-Encoding: chunked\r\n", _chunk(_BODY) + b"0\r\nX-Y: z\r\n\r\n"),
        True,
    ),
    "several at once": (lambda _: _get(b"/v1/models") * 5, True),
    "a broken form": (_multipart, True),
    "a broken form, kept open": (_kept_open, True),
}
_SLOW = {"cut off and kept open", "a chunk too few", "a broken form, kept open"}

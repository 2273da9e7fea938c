"""What is sent: HTTP requests, and bytes that only look like some."""

import base64
import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]

#: Answers end after so many tokens, and pictures are judged by the smallest budget that could certify one, so
#: that what is accepted costs little.
FEW_TOKENS = 2
LEAST = {"n_select": 8, "n_certify": 45}

BOUNDARY = "smoothgate-fuzz"
_SHOWN = 1500


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request.

    Attributes:
        source: one of `stream.SHARES`.
        what: was done to it, for the report.
        method, path, headers, body: of it.
    """

    source: str
    what: str
    method: str
    path: str
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""

    def shown(self) -> str:
        """As a command to type; long bodies cut."""
        parts = ["curl", "-X", self.method]
        for name, value in self.headers:
            parts += ["-H", f"{name}: {value}"]
        if self.body:
            parts += ["--data-binary", _cut(self.body)]
        return shlex.join([*parts, f"$URL{self.path}"])

    def as_json(self) -> Json:
        """All of it."""
        head = {"method": self.method, "path": self.path, "headers": [list(pair) for pair in self.headers]}
        return head | {"body": base64.b64encode(self.body).decode()}


@dataclass(frozen=True, slots=True)
class Raw:
    """Bytes on a connection of their own.

    Attributes:
        source, what: as of a `Request`.
        sent: the bytes.
        waits: whether an answer is due; otherwise the connection is cut as soon as all is sent.
    """

    source: str
    what: str
    sent: bytes
    waits: bool = True

    def shown(self) -> str:
        """As a Python literal; long ones cut."""
        return _cut(self.sent)

    def as_json(self) -> Json:
        """All of it."""
        return {"sent": base64.b64encode(self.sent).decode(), "waits": self.waits}


def json_request(source: str, what: str, path: str, body: Any) -> Request:
    """A POST of JSON; text and bytes are sent as they are."""
    if not isinstance(body, str | bytes):
        body = json.dumps(body)
    if isinstance(body, str):
        body = body.encode()
    return Request(source, what, "POST", path, (("Content-Type", "application/json"),), body)


def form(fields: Json, files: Sequence[bytes]) -> bytes:
    """A `multipart/form-data` body; values that are not text go as JSON."""
    parts = [
        b'Content-Disposition: form-data; name="%b"\r\n\r\n%b'
        % (name.encode(), (value if isinstance(value, str) else json.dumps(value)).encode())
        for name, value in fields.items()
    ]
    parts += [
        b'Content-Disposition: form-data; name="image"; filename="x.png"\r\n'
        b"Content-Type: image/png\r\n\r\n%b" % file
        for file in files
    ]
    fence = b"--" + BOUNDARY.encode()
    return b"".join(fence + b"\r\n" + part + b"\r\n" for part in parts) + fence + b"--\r\n"


def form_request(source: str, what: str, path: str, body: bytes) -> Request:
    """A POST of a body that `form` made."""
    kind = f"multipart/form-data; boundary={BOUNDARY}"
    return Request(source, what, "POST", path, (("Content-Type", kind),), body)


def _cut(data: bytes) -> str:
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = repr(data)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}… ({len(data)} bytes)"

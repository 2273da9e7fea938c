"""Pictures of many sizes: one or more of them in a request, tiny, long, and larger than any canvas."""

import base64
import io
from collections.abc import Iterator
from functools import cache
from random import Random

from PIL import Image

from tests.families.pictures import picture
from tests.fuzz.request import FEW_TOKENS, LEAST, Request, form, form_request, json_request

SOURCE = "sizes"

# Height and width. Three are larger than any canvas. The last is longer for its width than some models take.
_SIZES = (
    (1, 1), (8, 8), (31, 97), (40, 50), (64, 64), (16, 200), (200, 133), (240, 320), (480, 64),
    (1000, 1500), (1600, 40), (2400, 1600), (1, 250),
)  # fmt: skip
# As many as a request may hold, and one more.
_MOST_PICTURES = 5
# Of what is on a picture.
_SEEDS = 4
_KINDS = ("PNG", "JPEG", "WEBP")


def requests(rng: Random) -> Iterator[Request]:
    """Without end."""
    while True:
        sizes = rng.choices(_SIZES, k=rng.choice((1, 1, 1, 2, 3, _MOST_PICTURES)))
        files = [_file(size, rng.randrange(_SEEDS), rng.choice(_KINDS)) for size in sizes]
        yield _request(rng, ", ".join(f"{height} x {width}" for height, width in sizes), files)


def _request(rng: Random, what: str, files: list[bytes]) -> Request:
    uris = [f"data:image/png;base64,{base64.b64encode(file).decode()}" for file in files]
    asked = {"smoothing": LEAST, "max_tokens": FEW_TOKENS, "stream": rng.random() < 0.2}
    carrier = rng.choice(("certify", "chat", "form", "completions"))
    if carrier == "certify":
        return json_request(SOURCE, what, "/v1/certify", {"images": uris, "smoothing": LEAST})
    if carrier == "chat":
        return json_request(SOURCE, what, "/v1/chat", {"message": "What?", "images": uris, **asked})
    if carrier == "form":
        fields = {"message": "What?", "smoothing": LEAST, "max_tokens": FEW_TOKENS}
        return form_request(SOURCE, what, "/v1/chat", form(fields, files))
    content = [
        *({"type": "image_url", "image_url": {"url": uri}} for uri in uris),
        {"type": "text", "text": "What?"},
    ]
    body = {"messages": [{"role": "user", "content": content}], **asked}
    return json_request(SOURCE, what, "/v1/chat/completions", body)


@cache
def _file(size: tuple[int, int], seed: int, kind: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture(*size, seed)).save(file, kind)
    return file.getvalue()

"""Decodes pictures one by one: files come in on standard input, pixels go out on standard output.

    python -P -m smoothgate.pictures.decoder_child MAX_PIXELS SECONDS MEMORY_BYTES

It says `ready` in a line once it takes files. A file comes as a line with its length, then its bytes. The
answer is a line of JSON: `shape`, and `image` (all else of a `DecodedImage`), and after the line the pixels;
or `error` (the name of a class in `smoothgate.errors`), `message` and `code`. The process ends with its
standard input.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any, BinaryIO

from smoothgate.errors import RequestError, Unacceptable
from smoothgate.pictures.images import DecodedImage, decode


def serve(files: BinaryIO, answers: BinaryIO, *, max_pixels: int, seconds: float) -> None:
    """Answer all files. A picture that takes longer than `seconds` ends the process by SIGALRM."""
    while line := files.readline():
        data = files.read(int(line))
        # The kernel ends this process even where the service, which does so sooner, is gone.
        signal.setitimer(signal.ITIMER_REAL, seconds)
        header, image = _answer(data, max_pixels)
        signal.setitimer(signal.ITIMER_REAL, 0)
        answers.write(json.dumps(header).encode() + b"\n")
        if image is not None:
            answers.write(image.pixels.tobytes())
        answers.flush()


def _answer(data: bytes, max_pixels: int) -> tuple[dict[str, Any], DecodedImage | None]:
    try:
        image = decode(data, max_pixels=max_pixels)
    except MemoryError:
        return _refusal(
            Unacceptable("The image takes more memory than a decoder may have.", code="decoder_memory")
        ), None
    except RequestError as error:
        return _refusal(error), None
    described = {field.name: getattr(image, field.name) for field in fields(image) if field.name != "pixels"}
    return {"shape": image.pixels.shape, "image": described}, image


def _refusal(error: RequestError) -> dict[str, Any]:
    return {"error": type(error).__name__, "message": error.message, "code": error.code}


def _limit_memory(more: int) -> None:
    """Allow `more` bytes on top of what the process has mapped. Only Linux holds a process to it."""
    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + more
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


if __name__ == "__main__":
    _limit_memory(int(sys.argv[3]))
    sys.stdout.buffer.write(b"ready\n")
    sys.stdout.buffer.flush()
    serve(sys.stdin.buffer, sys.stdout.buffer, max_pixels=int(sys.argv[1]), seconds=float(sys.argv[2]))

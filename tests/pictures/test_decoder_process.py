"""A decoder process by itself."""

import io
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from PIL import Image

from smoothgate.errors import TooLarge, Unacceptable
from smoothgate.pictures.decoder_process import DecoderDied, DecoderProcess
from smoothgate.pictures.images import DecodedImage, decode

MAX_PIXELS = 4_000_000


def picture(mode: str, file_format: str, size: tuple[int, int] = (60, 50), **options: Any) -> bytes:
    file = io.BytesIO()
    Image.effect_noise(size, 50).convert(mode).save(file, file_format, **options)
    return file.getvalue()


@pytest.fixture(scope="module")
def decoder() -> Iterator[DecoderProcess]:
    made = DecoderProcess(max_bytes=2**22, max_pixels=MAX_PIXELS, seconds=20)
    made.start()
    yield made
    made.close()


@pytest.mark.parametrize(
    ("mode", "file_format", "options"),
    [("RGB", "PNG", {}), ("LA", "PNG", {}), ("CMYK", "JPEG", {}), ("RGBA", "WEBP", {}), ("P", "GIF", {})],
)
def test_it_decodes_as_this_process_does(
    decoder: DecoderProcess, mode: str, file_format: str, options: dict[str, Any]
) -> None:
    data = picture(mode, file_format, **options)
    here, there = decode(data, max_pixels=MAX_PIXELS), decoder.decode(data, None)
    np.testing.assert_array_equal(there.pixels, here.pixels)
    for field in fields(DecodedImage):
        if field.name != "pixels":
            assert getattr(there, field.name) == getattr(here, field.name), field.name


@pytest.mark.parametrize("mode", ["I;16", "RGBA", "CMYK"])
def test_the_largest_picture_fits_into_its_memory(decoder: DecoderProcess, mode: str) -> None:
    file = io.BytesIO()
    Image.new(mode, (2000, 2000)).save(file, "JPEG" if mode == "CMYK" else "PNG")
    assert decoder.decode(file.getvalue(), None).pixels.shape == (2000, 2000, 3)


@pytest.mark.parametrize(
    ("data", "kind"),
    [(b"", Unacceptable), (b"GIF89a", Unacceptable), (picture("L", "PNG", (2100, 2000)), TooLarge)],
)
def test_a_refusal_is_that_of_this_process(
    decoder: DecoderProcess, data: bytes, kind: type[Unacceptable] | type[TooLarge]
) -> None:
    with pytest.raises(kind) as here:
        decode(data, max_pixels=MAX_PIXELS, param="images.3")
    with pytest.raises(kind) as there:
        decoder.decode(data, "images.3")
    assert vars(there.value) == vars(here.value)


def test_it_ends_by_itself_where_nobody_kills_it() -> None:
    decoder = DecoderProcess(max_bytes=2**22, max_pixels=10**8, seconds=0.2)
    try:
        decoder.start()
        file = io.BytesIO()
        Image.new("L", (9000, 9000)).save(file, "PNG", compress_level=1)
        with pytest.raises(DecoderDied, match="ended by signal 14"):
            decoder.decode(file.getvalue(), None)
    finally:
        decoder.close()


def test_it_starts_again_after_its_end(decoder: DecoderProcess) -> None:
    decoder.kill()
    with pytest.raises(DecoderDied, match="ended by signal 9"):
        decoder.decode(picture("L", "PNG"), None)
    decoder.start()
    assert decoder.decode(picture("L", "PNG"), None).width == 60


def test_a_process_that_was_killed_is_not_taken_for_one_that_runs(decoder: DecoderProcess) -> None:
    """A limit may pass, or a client leave, when the answer is there but not yet taken: the next picture would
    be given to a process that is about to die.
    """
    for _ in range(5):
        decoder.start()
        decoder.kill()
        decoder.start()
        assert decoder.decode(picture("L", "PNG"), None).width == 60


def test_it_ends_with_its_standard_input_and_imports_no_torch() -> None:
    """So it does not outlive a service that is killed."""
    code = (
        "import sys, smoothgate.pictures.decoder_child as child\n"
        "child.serve(sys.stdin.buffer, sys.stdout.buffer, max_pixels=1, seconds=1)\n"
        "assert not {'torch', 'transformers', 'fastapi'} & set(sys.modules)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], stdin=subprocess.DEVNULL, timeout=60, check=False)
    assert ended.returncode == 0

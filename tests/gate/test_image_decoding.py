"""Who is told what when decoders are slow or busy."""

import asyncio
import threading

import pytest

from smoothgate.errors import NotReady, SmoothgateError, Unacceptable
from smoothgate.gate.chat_images import ImageSlot
from smoothgate.gate.image_decoding import ImageDecoder
from tests.whole_service import SAMPLES

pytestmark = pytest.mark.asyncio

SLOT = ImageSlot(0, 0, (SAMPLES / "seven.png").read_bytes(), "images.0")


async def test_a_picture_that_finds_all_decoders_busy_is_a_503(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its client is not at fault; that of a picture that takes too long to decode is."""
    decoder = ImageDecoder(None, max_bytes=10**6, max_pixels=10**6, seconds=0.5)
    going, decode = threading.Event(), decoder._decode
    monkeypatch.setattr(decoder, "_decode", lambda *given: (going.wait(20), decode(*given))[1])
    slow = [asyncio.create_task(decoder.decode([SLOT])) for _ in range(4)]
    await asyncio.sleep(0.1)
    with pytest.raises(SmoothgateError) as caught:
        await decoder.decode([SLOT])
    assert isinstance(caught.value, NotReady)
    assert (caught.value.code, caught.value.retry_after) == ("decoders_busy", 0.5)
    for each in slow:
        with pytest.raises(Unacceptable) as late:
            await each
        assert late.value.code == "decode_timeout"
    going.set()
    (image,) = await decoder.decode([SLOT])
    assert image.width > 0
    await decoder.aclose()

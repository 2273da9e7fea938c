"""A picture that is slow, or that ends its decoder, costs its own request and no other."""

import asyncio
import io
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import pytest_asyncio
from PIL import Image
from prometheus_client import REGISTRY

from smoothgate.errors import NotReady, Unacceptable
from smoothgate.gate import image_decoding
from smoothgate.gate.chat_images import ImageSlot
from smoothgate.gate.image_decoding import ImageDecoder
from smoothgate.pictures import decoder_process
from tests.processes import alive, descendants
from tests.waiting import eventually
from tests.whole_service import SAMPLES

pytestmark = pytest.mark.asyncio

MAX_PIXELS = 10**8
SLOT = ImageSlot(0, 0, (SAMPLES / "seven.png").read_bytes(), "images.0")


def slow_slot() -> ImageSlot:
    """A small file of 81 million pixels. It takes seconds to decode."""
    file = io.BytesIO()
    Image.new("L", (9000, 9000)).save(file, "PNG", compress_level=1)
    return ImageSlot(0, 0, file.getvalue(), "images.0")


def failures(reason: str) -> float:
    return REGISTRY.get_sample_value("smoothgate_decoder_failures_total", {"reason": reason}) or 0.0


# Decoders of services that other modules share.
_others: set[int] = set()


@pytest.fixture(scope="module", autouse=True)
def _leave_others_alone() -> None:
    _others.update(decoder_pids())


def decoder_pids() -> set[int]:
    """The decoder processes of this module."""
    return set(descendants(os.getpid(), "decoder_child")) - _others


OpenDecoder = Callable[[float], ImageDecoder]


@pytest_asyncio.fixture
async def open_decoder() -> AsyncIterator[OpenDecoder]:
    """Makes a decoder with a limit in seconds; it is closed after the test."""
    async with AsyncExitStack() as stack:

        def open_one(seconds: float) -> ImageDecoder:
            decoder = ImageDecoder(None, max_bytes=10**7, max_pixels=MAX_PIXELS, seconds=seconds)
            stack.push_async_callback(decoder.aclose)
            return decoder

        yield open_one


async def test_a_picture_that_takes_too_long_ends_its_decoder_and_no_other_picture(
    open_decoder: OpenDecoder,
) -> None:
    decoder = open_decoder(2.0)
    before = failures("timeout")
    await decoder.decode([SLOT])
    (pid,) = decoder_pids()
    os.kill(pid, signal.SIGSTOP)  # as a decoder that is long at work, on any machine
    results = await asyncio.gather(decoder.decode([SLOT]), decoder.decode([SLOT]), return_exceptions=True)
    (error,) = (one for one in results if isinstance(one, BaseException))
    assert isinstance(error, Unacceptable)
    assert (error.code, error.param) == ("decode_timeout", SLOT.param)
    assert failures("timeout") == before + 1
    assert pid not in decoder_pids()
    assert len(decoder_pids()) == 1
    assert decoder.problems() == {}


async def test_a_picture_that_finds_all_decoders_busy_is_a_503(
    open_decoder: OpenDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its client is not at fault; that of a picture that takes too long to decode is."""
    decoder = open_decoder(2.0)
    await asyncio.gather(*(decoder.decode([SLOT]) for _ in range(4)))
    pids = decoder_pids()
    assert len(pids) == 4
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)  # as a decoder that hangs
    monkeypatch.setattr(decoder, "_seconds", 2.0)
    slow = [asyncio.create_task(decoder.decode([SLOT])) for _ in range(4)]
    await asyncio.sleep(0.1)
    monkeypatch.setattr(decoder, "_seconds", 0.5)
    with pytest.raises(NotReady) as caught:
        await decoder.decode([SLOT])
    assert (caught.value.code, caught.value.retry_after) == ("decoders_busy", 0.5)
    monkeypatch.undo()
    for each in slow:
        with pytest.raises(Unacceptable):
            await each
    assert not pids & decoder_pids()
    (image,) = await decoder.decode([SLOT])
    assert image.width > 0


async def test_a_decoder_that_crashes_costs_its_picture_alone(open_decoder: OpenDecoder) -> None:
    decoder = open_decoder(30.0)
    before, slot = failures("crash"), await asyncio.to_thread(slow_slot)
    await decoder.decode([SLOT])
    (pid,) = decoder_pids()
    lost = asyncio.create_task(decoder.decode([slot]))
    await asyncio.sleep(0.1)
    other = asyncio.create_task(decoder.decode([SLOT]))
    await asyncio.sleep(0.1)
    os.kill(pid, signal.SIGSEGV)
    with pytest.raises(Unacceptable) as caught:
        await lost
    assert (caught.value.code, caught.value.param) == ("decoder_crashed", "images.0")
    assert failures("crash") == before + 1
    assert (await other)[0].width > 0
    assert (await decoder.decode([SLOT]))[0].width > 0


async def test_an_idle_decoder_that_was_killed_costs_nothing(open_decoder: OpenDecoder) -> None:
    decoder = open_decoder(10.0)
    await decoder.decode([SLOT])
    (pid,) = decoder_pids()
    os.kill(pid, signal.SIGKILL)
    await eventually(lambda: not alive(pid), 10)
    assert (await decoder.decode([SLOT]))[0].width > 0


async def test_a_picture_that_takes_too_much_memory_is_refused(
    open_decoder: OpenDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoder_process, "_BYTES_PER_PIXEL", 0)
    decoder = open_decoder(30.0)
    slot = await asyncio.to_thread(slow_slot)
    with pytest.raises(Unacceptable) as caught:
        await decoder.decode([slot])
    assert caught.value.code == "decoder_memory"
    pids = decoder_pids()
    assert (await decoder.decode([SLOT]))[0].width > 0
    assert decoder_pids() == pids


async def test_decoders_that_do_not_start_are_reported_until_they_do(
    open_decoder: OpenDecoder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    python = tmp_path / "python"
    await asyncio.to_thread(_write_script, python, "exit 3")
    real = sys.executable
    monkeypatch.setattr(image_decoding, "_RETRY_SECONDS", 0.2)
    monkeypatch.setattr(sys, "executable", str(python))
    decoder, before = open_decoder(10.0), failures("start")
    with pytest.raises(NotReady) as caught:
        await decoder.decode([SLOT])
    assert (caught.value.code, caught.value.retry_after) == ("decoders_down", 0.2)
    assert decoder.problems() == {"decoders": "down"}
    await eventually(lambda: REGISTRY.get_sample_value("smoothgate_decoders_up") == 0, 10)
    assert failures("start") > before
    await asyncio.to_thread(_write_script, python, f'exec {real} "$@"')
    await eventually(lambda: decoder.problems() == {}, 10)
    assert REGISTRY.get_sample_value("smoothgate_decoders_up") == 1
    assert (await decoder.decode([SLOT]))[0].width > 0


def _write_script(path: Path, line: str) -> None:
    new = path.with_suffix(".new")
    new.write_text(f"#!/bin/sh\n{line}\n")
    new.chmod(0o700)
    new.rename(path)


async def test_a_client_that_leaves_frees_its_decoder_at_once(open_decoder: OpenDecoder) -> None:
    decoder, crashes = open_decoder(60.0), failures("crash")
    await asyncio.gather(*(decoder.decode([SLOT]) for _ in range(4)))
    for pid in decoder_pids():
        os.kill(pid, signal.SIGSTOP)
    leaving = [asyncio.create_task(decoder.decode([SLOT])) for _ in range(4)]
    await asyncio.sleep(0.2)
    for each in leaving:
        each.cancel()
    async with asyncio.timeout(20):
        assert (await decoder.decode([SLOT]))[0].width > 0
    assert failures("crash") == crashes


async def test_no_decoder_outlives_the_service(open_decoder: OpenDecoder) -> None:
    decoder = open_decoder(10.0)
    await decoder.decode([SLOT])
    slot = await asyncio.to_thread(slow_slot)
    going = asyncio.create_task(decoder.decode([slot, slot]))
    await asyncio.sleep(0.3)
    await decoder.aclose()
    assert decoder_pids() == set()
    with pytest.raises((Unacceptable, RuntimeError)):
        await going

"""Images as clients send them (uploaded files, data URIs, URLs), decoded in processes that can be killed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from smoothgate import metrics, tracing
from smoothgate.errors import NotReady, TooLarge, Unacceptable
from smoothgate.gate.chat_images import ImageSlot
from smoothgate.gate.image_fetcher import Fetcher
from smoothgate.logs import get_logger
from smoothgate.off_loop import off_loop
from smoothgate.pictures.decoder_process import DecoderDied, DecoderProcess
from smoothgate.pictures.images import DecodedImage, parse_data_uri

P = ParamSpec("P")
T = TypeVar("T")

_DECODERS = 4
_START_SECONDS = 30.0
_RETRY_SECONDS = 5.0
_URL_SCHEMES = frozenset({"http", "https", "file", "ftp"})

log = get_logger("decoder")


class ImageDecoder:
    """Fetches images where they are URLs, and decodes them in processes that do nothing else.

    A process starts with the first picture that finds no other free. A thread waits for each.

    Args:
        fetcher: None: this service fetches nothing.
        max_bytes: size of an encoded image.
        max_pixels: width times height of an image.
        seconds: the longest time to decode one image.
    """

    def __init__(self, fetcher: Fetcher | None, *, max_bytes: int, max_pixels: int, seconds: float) -> None:
        self._fetcher = fetcher
        self._max_bytes = max_bytes
        self._seconds = seconds
        self._threads = ThreadPoolExecutor(_DECODERS, "decode")
        # A process may end itself when the service that should have killed it sooner is gone.
        self._decoders = [
            DecoderProcess(max_bytes=max_bytes, max_pixels=max_pixels, seconds=2 * seconds)
            for _ in range(_DECODERS)
        ]
        # The last one used is the next: those that few pictures need are never started.
        self._free: asyncio.LifoQueue[DecoderProcess] = asyncio.LifoQueue()
        for decoder in self._decoders:
            self._free.put_nowait(decoder)
        self._recovering: asyncio.Task[None] | None = None
        metrics.DECODERS_UP.set(1)

    def problems(self) -> dict[str, str]:
        """`decoders`: down, from a start that fails until one succeeds."""
        return {} if self._recovering is None else {"decoders": "down"}

    async def decode(self, slots: Sequence[ImageSlot]) -> list[DecodedImage]:
        """The images of a request, in order.

        Raises:
            TooLarge: more bytes or pixels than the operator allows.
            MalformedRequest: not base64, or not a data URI.
            Unacceptable: not a picture, a URL that may not or cannot be fetched, or a picture that takes too
                long or too much memory to decode, or that ends its decoder.
            NotReady: code `decoders_busy`: an image has waited for a decoder for as long as one may take;
                `decoders_down`: none can be started.
        """
        started = time.perf_counter()
        with tracing.stage("decode"):
            images = [await self._decoded(slot) for slot in slots]
        metrics.STAGE_SECONDS.labels("decode").observe(time.perf_counter() - started)
        return images

    async def aclose(self) -> None:
        """Close all connections and end the processes and the threads."""
        if self._recovering is not None:
            self._recovering.cancel()
            await asyncio.wait([self._recovering])
        for decoder in self._decoders:
            decoder.kill()
        await off_loop(self._threads.shutdown, cancel_futures=True)
        for decoder in self._decoders:
            await off_loop(decoder.close)
        if self._fetcher is not None:
            await self._fetcher.aclose()

    async def _decoded(self, slot: ImageSlot) -> DecodedImage:
        source = await self._fetched(slot)
        try:
            async with asyncio.timeout(self._seconds):
                decoder = await self._free.get()
        except TimeoutError as error:
            raise NotReady(
                "All decoders are busy.", code="decoders_busy", retry_after=self._seconds
            ) from error
        decoding = asyncio.create_task(self._decoded_by(decoder, source, slot.param))
        decoding.add_done_callback(lambda _: self._free.put_nowait(decoder))
        try:
            return await asyncio.shield(decoding)
        finally:
            decoding.cancel()  # where the client has left

    async def _decoded_by(self, decoder: DecoderProcess, source: str | bytes, param: str) -> DecodedImage:
        if not await self._started(decoder):
            if self._recovering is None:
                self._recovering = asyncio.create_task(self._recover())
            raise NotReady("No decoder can be started.", code="decoders_down", retry_after=_RETRY_SECONDS)
        began = time.monotonic()
        try:
            return await self._within(self._seconds, decoder, self._decode, decoder, source, param)
        except DecoderDied as death:
            late = time.monotonic() - began >= self._seconds
            metrics.DECODER_FAILURES.labels("timeout" if late else "crash").inc()
            log.warning("a picture has ended its decoder", reason=str(death), late=late, length=len(source))
            if late:
                raise Unacceptable(
                    f"The image was not decoded within {self._seconds:g} s.",
                    param=param,
                    code="decode_timeout",
                ) from death
            raise Unacceptable(
                "The image could not be decoded: its decoder has ended.", param=param, code="decoder_crashed"
            ) from death

    async def _started(self, decoder: DecoderProcess) -> bool:
        """Start a decoder unless it runs. Returns whether it runs."""
        try:
            await self._within(_START_SECONDS, decoder, decoder.start)
        except (DecoderDied, OSError) as error:
            metrics.DECODER_FAILURES.labels("start").inc()
            log.error("a decoder does not start", reason=str(error))
            return False
        return True

    async def _recover(self) -> None:
        """Try to start a decoder until one starts."""
        metrics.DECODERS_UP.set(0)
        started = False
        while not started:
            await asyncio.sleep(_RETRY_SECONDS)
            decoder = await self._free.get()
            try:
                started = await self._started(decoder)
            finally:
                self._free.put_nowait(decoder)
        log.info("decoders start again")
        metrics.DECODERS_UP.set(1)
        self._recovering = None

    async def _within(
        self,
        seconds: float,
        decoder: DecoderProcess,
        function: Callable[P, T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """The result of a blocking call of a decoder, which is killed after `seconds` or when cancelled."""
        loop = asyncio.get_running_loop()
        working = loop.run_in_executor(self._threads, lambda: function(*args, **kwargs))
        killing = loop.call_later(seconds, decoder.kill)
        try:
            return await asyncio.shield(working)
        finally:
            killing.cancel()
            if not working.done():
                decoder.kill()
                await asyncio.wait([working])

    async def _fetched(self, slot: ImageSlot) -> str | bytes:
        """The file, where it was uploaded or is fetched; a data URI as it is."""
        source = slot.source
        if isinstance(source, bytes) or source[:16].partition(":")[0].strip().lower() not in _URL_SCHEMES:
            return source
        if self._fetcher is None:
            raise Unacceptable(
                "This service does not fetch URLs: send the image as a data URI, data:image/png;base64,....",
                param=slot.param,
                code="url_not_allowed",
            )
        return await self._fetcher.fetch(source, slot.param)

    def _decode(self, decoder: DecoderProcess, source: str | bytes, param: str) -> DecodedImage:
        if isinstance(source, str):
            source = parse_data_uri(source, max_bytes=self._max_bytes, param=param)
        if len(source) > self._max_bytes:
            raise TooLarge(
                f"The image is larger than {self._max_bytes} bytes.", param=param, code="image_too_large"
            )
        return decoder.decode(source, param)

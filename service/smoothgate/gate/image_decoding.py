"""Images as clients send them (uploaded files, data URIs, URLs), decoded away from the event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from smoothgate import metrics, tracing
from smoothgate.errors import NotReady, TooLarge, Unacceptable
from smoothgate.gate.chat_images import ImageSlot
from smoothgate.gate.image_fetcher import Fetcher
from smoothgate.vision import DecodedImage, decode, parse_data_uri

_THREADS = 4
_URL_SCHEMES = frozenset({"http", "https", "file", "ftp"})


class ImageDecoder:
    """Fetches images where they are URLs, and decodes them in threads that do nothing else.

    Args:
        fetcher: None: this service fetches nothing.
        max_bytes: size of an encoded image.
        max_pixels: width times height of an image.
        seconds: the longest time to decode one image.
    """

    def __init__(self, fetcher: Fetcher | None, *, max_bytes: int, max_pixels: int, seconds: float) -> None:
        self._fetcher = fetcher
        self._max_bytes = max_bytes
        self._max_pixels = max_pixels
        self._seconds = seconds
        self._threads = ThreadPoolExecutor(_THREADS, "decode")
        self._free = asyncio.Semaphore(_THREADS)

    async def decode(self, slots: Sequence[ImageSlot]) -> list[DecodedImage]:
        """The images of a request, in order.

        Raises:
            TooLarge: more bytes or pixels than the operator allows.
            MalformedRequest: not base64, or not a data URI.
            Unacceptable: not a picture, a URL that may not or cannot be fetched, or a picture that takes too
                long to decode.
            NotReady: code `decoders_busy`: no thread has been free for as long as one image may take.
        """
        started = time.perf_counter()
        with tracing.stage("decode"):
            images = [await self._decoded(slot) for slot in slots]
        metrics.STAGE_SECONDS.labels("decode").observe(time.perf_counter() - started)
        return images

    async def aclose(self) -> None:
        """Close all connections and let the threads end."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        if self._fetcher is not None:
            await self._fetcher.aclose()

    async def _decoded(self, slot: ImageSlot) -> DecodedImage:
        source = await self._fetched(slot)
        try:
            async with asyncio.timeout(self._seconds):
                await self._free.acquire()
        except TimeoutError as error:
            raise NotReady(
                "All decoders are busy.", code="decoders_busy", retry_after=self._seconds
            ) from error
        decoding = asyncio.get_running_loop().run_in_executor(self._threads, self._decode, source, slot.param)
        decoding.add_done_callback(lambda _: self._free.release())
        try:
            # A thread cannot be stopped: it is left to end by itself, and the others go on.
            return await asyncio.wait_for(asyncio.shield(decoding), self._seconds)
        except TimeoutError as error:
            raise Unacceptable(
                f"The image was not decoded within {self._seconds:g} s.",
                param=slot.param,
                code="decode_timeout",
            ) from error

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

    def _decode(self, source: str | bytes, param: str) -> DecodedImage:
        if isinstance(source, str):
            source = parse_data_uri(source, max_bytes=self._max_bytes, param=param)
        if len(source) > self._max_bytes:
            raise TooLarge(
                f"The image is larger than {self._max_bytes} bytes.", param=param, code="image_too_large"
            )
        return decode(source, max_pixels=self._max_pixels, param=param)

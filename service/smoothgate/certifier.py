"""Certifies pictures in this process: the service's own flow, without HTTP. It needs the extra `serve`."""

from __future__ import annotations

import asyncio
import io
import os
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Literal, Self, TypeVar, cast

import numpy as np
import numpy.typing as npt
from PIL import Image
from prometheus_client import REGISTRY
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from smoothgate.errors import EngineTimedOut, MalformedRequest, NotReady, SmoothgateError, Unacceptable
from smoothgate.gate.answering import Answer, Features, ImageRequest, Turn
from smoothgate.gate.build import build
from smoothgate.gate.service import Service
from smoothgate.off_loop import off_loop
from smoothgate.schemas import IssuedCertificate, SmoothingOptions
from smoothgate.settings import Settings

#: A picture: where its file is, the bytes of a file, an image of Pillow, or pixels (H, W) or (H, W, 3) uint8.
Picture = str | os.PathLike[str] | bytes | Image.Image | npt.NDArray[np.uint8]

T = TypeVar("T")

#: Pictures that are under way at a time: enough that decoding never holds up the sampler.
AHEAD = 32

_ROUTE = "library"
_POLL_SECONDS = 0.02
_WEEK = 7 * 24 * 3600.0


@dataclass(frozen=True, slots=True, eq=False)
class Outcome(Generic[T]):
    """What became of one picture of many.

    Attributes:
        picture: as it was given.
        value: None: it failed.
        error: why it failed.
    """

    picture: Picture
    value: T | None
    error: SmoothgateError | None = None


class _Given(Settings):
    """The settings that are given, and neither those of the environment nor those of a file."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)


class Certifier:
    """A model with its sampler in this process. Use it as a context manager, or call `close`.

    It may be used by several threads. Where a picture cannot be certified, methods raise a `SmoothgateError`
    (`smoothgate.errors`) that says why.

    Args:
        model: checkpoint: a folder, a Hugging Face id or a bundled model; None: `demo`.
        psm: folder of its purifier, mapper and calibration; None: the bundled model's own.
        engine: `vllm`: starts a vLLM to `ask`; `none`: there is none, and pictures are only certified.
        engine_url: of a vLLM that runs elsewhere.
        settings: further settings of the service (docs/settings.md) by their names in small letters: the
            terms of certificates (`sigma`, `n_select`, `n_certify`, `alpha`, `eps`, `cosines` and others),
            `device`, `signing_key_file`, `noise_secret_file`. The environment does not count.

    Raises:
        SmoothgateError: model, PSM and settings do not fit together.
        pydantic.ValidationError: a setting is out of its bounds.
    """

    def __init__(
        self,
        model: str | None = None,
        psm: str | os.PathLike[str] | None = None,
        *,
        engine: Literal["none", "vllm"] | None = None,
        engine_url: str | None = None,
        **settings: Any,
    ) -> None:
        given = {
            # Whoever calls says how much is under way.
            "max_queued_seconds": _WEEK,
            "request_timeout_seconds": _WEEK,
            "cache_mib": 0,
            "canary_seconds": 0.0,
        }
        self._settings = _Given(
            model=model,
            psm=None if psm is None else Path(psm),
            engine=engine or ("none" if engine_url is None else "vllm"),
            engine_url=engine_url,
            **given | settings,
        )
        self._service: Service = build(self._settings)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="certifier", daemon=True)
        self._thread.start()
        try:
            self._submit(self._start()).result()
            self._started, self._sampled = time.monotonic(), _sampling_seconds()
        except BaseException:
            self._end()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the sampler, and a vLLM that was started."""
        if self._thread.is_alive():
            self._submit(self._service.stop()).result()
            self._end()

    @property
    def key_set(self) -> dict[str, Any]:
        """The JWKS that certificates are checked with."""
        return self._service.issuer.key_set

    @property
    def service(self) -> Service:
        """The parts behind it, for measurements of one of them."""
        return self._service

    @property
    def busy(self) -> float:
        """The share of the time since the start that the sampler's threads spent on batches."""
        return (_sampling_seconds() - self._sampled) / (time.monotonic() - self._started)

    def certify(self, picture: Picture, *, smoothing: SmoothingOptions | None = None) -> IssuedCertificate:
        """The certificate of a picture.

        Args:
            picture: to be certified.
            smoothing: the terms, where they are other than those of the certifier.
        """
        return self.features(picture, smoothing=smoothing).certificate

    def features(self, picture: Picture, *, smoothing: SmoothingOptions | None = None) -> Features:
        """The smoothed features of a picture with their certificate; takes what `certify` takes."""
        return self._submit(self._features(picture, smoothing)).result()

    def certify_all(
        self,
        pictures: Iterable[Picture],
        *,
        smoothing: SmoothingOptions | None = None,
        ahead: int = AHEAD,
    ) -> Iterator[Outcome[IssuedCertificate]]:
        """The certificates of many pictures, in their order; a picture that fails is in its place.

        Args:
            pictures: taken as they are needed.
            smoothing: as in `certify`.
            ahead: most pictures under way at a time.
        """
        for outcome in self.features_all(pictures, smoothing=smoothing, ahead=ahead):
            certificate = None if outcome.value is None else outcome.value.certificate
            yield Outcome(outcome.picture, certificate, outcome.error)

    def features_all(
        self,
        pictures: Iterable[Picture],
        *,
        smoothing: SmoothingOptions | None = None,
        ahead: int = AHEAD,
    ) -> Iterator[Outcome[Features]]:
        """The smoothed features of many pictures; takes and gives what `certify_all` does."""
        return self._in_order(pictures, lambda picture: self._features(picture, smoothing), ahead)

    def ask(
        self,
        message: str,
        pictures: Sequence[Picture] = (),
        *,
        smoothing: SmoothingOptions | None = None,
        history: Sequence[dict[str, Any]] = (),
        **parameters: Any,
    ) -> Answer:
        """The answer to a question about pictures, with its certificates.

        Args:
            message: the question.
            pictures: what it is about.
            smoothing: the terms; `certify="answer"` in it has the answer certified.
            history: earlier messages of this chat, in OpenAI's form.
            parameters: of vLLM, such as `max_tokens` and `temperature`.

        Raises:
            NoLanguageModel: the certifier has no engine.
        """
        return self._submit(self._ask(message, pictures, smoothing, history, parameters)).result()

    async def _ask(
        self,
        message: str,
        pictures: Sequence[Picture],
        smoothing: SmoothingOptions | None,
        history: Sequence[dict[str, Any]],
        parameters: dict[str, Any],
    ) -> Answer:
        question = {"role": "user", "content": [{"type": "text", "text": message}]}
        turn = Turn(
            route=_ROUTE,
            request_id=uuid.uuid4().hex,
            account=None,
            messages=[*history, question],
            images=[await off_loop(file_of, picture) for picture in pictures],
            smoothing=smoothing or SmoothingOptions(),
            parameters=parameters,
        )
        return await self._service.answering.answer(turn)

    async def _features(self, picture: Picture, smoothing: SmoothingOptions | None) -> Features:
        request = ImageRequest(
            route=_ROUTE,
            request_id=uuid.uuid4().hex,
            account=None,
            images=[await off_loop(file_of, picture)],
            smoothing=smoothing or SmoothingOptions(),
        )
        (features,) = await self._service.answering.features(request)
        return features

    def _in_order(
        self, pictures: Iterable[Picture], work: Callable[[Picture], Coroutine[Any, Any, T]], ahead: int
    ) -> Iterator[Outcome[T]]:
        waiting: deque[tuple[Picture, Future[T]]] = deque()
        try:
            for picture in pictures:
                waiting.append((picture, self._submit(work(picture))))
                if len(waiting) >= ahead:
                    yield _outcome(*waiting.popleft())
            while waiting:
                yield _outcome(*waiting.popleft())
        finally:
            for _, future in waiting:
                future.cancel()

    async def _start(self) -> None:
        await self._service.start()
        ends = time.monotonic() + self._settings.engine_start_timeout_seconds
        try:
            while problems := self._service.readiness.problems():
                if time.monotonic() > ends or self._service.readiness.beyond_repair():
                    listing = ", ".join(f"{part} {state}" for part, state in problems.items())
                    raise EngineTimedOut(f"Not ready: {listing}.")
                await asyncio.sleep(_POLL_SECONDS)
        except BaseException:
            await self._service.stop()
            raise

    def _submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        if not self._thread.is_alive():
            work.close()
            raise NotReady("This certifier is closed.", code="closed")
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def features(
    pictures: Iterable[Picture],
    *,
    smoothing: SmoothingOptions | None = None,
    **settings: Any,
) -> list[Features]:
    """The smoothed features of pictures, each with its certificate, for retrieval and moderation.

    The model is loaded for this call. `Certifier.features_all` keeps it, and goes on after a picture that
    fails.

    Args:
        pictures: as `Certifier` takes them.
        smoothing: as in `Certifier.certify`.
        settings: of the `Certifier`.

    Raises:
        SmoothgateError: as `Certifier`, or the first picture that failed.
    """
    found = []
    with Certifier(**settings) as certifier:
        for outcome in certifier.features_all(pictures, smoothing=smoothing):
            if outcome.error is not None:
                raise outcome.error
            found.append(cast(Features, outcome.value))
    return found


def file_of(picture: Picture) -> bytes:
    """The file of a picture. Images of Pillow and pixels become a PNG, whose digest the certificate names.

    Raises:
        Unacceptable: code `unreadable_file`: there is no such file, or it may not be read.
        MalformedRequest: it is no picture.
    """
    if isinstance(picture, bytes):
        return picture
    if isinstance(picture, str | os.PathLike):
        try:
            return Path(picture).read_bytes()
        except OSError as error:
            raise Unacceptable(
                f"{os.fspath(picture)} cannot be read: {error.strerror}.", code="unreadable_file"
            ) from error
    if isinstance(picture, np.ndarray):
        if picture.dtype != np.uint8 or picture.ndim not in (2, 3) or picture.shape[2:] not in ((), (3,)):
            raise MalformedRequest(
                "Pixels must be (H, W) or (H, W, 3) of type uint8, not "
                f"{picture.shape} of type {picture.dtype}."
            )
        picture = Image.fromarray(picture)
    if not isinstance(picture, Image.Image):
        raise MalformedRequest(f"This is no picture: {type(picture).__name__}.")
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def _sampling_seconds() -> float:
    return REGISTRY.get_sample_value("smoothgate_sampling_seconds_total") or 0.0


def _outcome(picture: Picture, future: Future[T]) -> Outcome[T]:
    try:
        return Outcome(picture, future.result())
    except SmoothgateError as error:
        return Outcome(picture, None, error)

"""What runs behind the routes: engine, encoder, sampler; started, watched and stopped together."""

from __future__ import annotations

import asyncio
import math
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import numpy as np
import structlog
import torch
from transformers.utils.logging import disable_progress_bar

from smoothgate import metrics
from smoothgate.demo import bundled
from smoothgate.engine import (
    Engine,
    EngineState,
    EngineStatus,
    LocalEngine,
    RemoteEngine,
    Supervision,
    VLLMOptions,
)
from smoothgate.errors import NotReady, SmoothgateError
from smoothgate.gate.admission import Admission
from smoothgate.gate.canary import Canary
from smoothgate.gate.image_fetcher import Fetcher
from smoothgate.gate.issuing import Issuer
from smoothgate.gate.schemas import SmoothingOptions
from smoothgate.http.access import Gatekeeper
from smoothgate.http.request_context import InFlight
from smoothgate.psm.unit_encoder import UnitEncoder
from smoothgate.sampling.autotune import autotune
from smoothgate.sampling.sampler import Sampler, Worker
from smoothgate.sampling.smoother import Smoother
from smoothgate.settings import Settings
from smoothgate.vision import DecodedImage, family_of, load

log = structlog.get_logger("runtime")

DEMO_NAME = "smoothgate-demo"
_WATCH_SECONDS = 1.0
_DECODERS = 4
# Batches take well under a second: so long without one, and something hangs.
_STALL_SECONDS = 30.0
# What a canvas that depends on the image is tuned for.
_TYPICAL = DecodedImage(np.zeros((448, 448, 3), np.uint8), "PNG", "")
# The noise that an encoder stands without a PSM (docs/psm.md).
_BARE_SIGMA = 0.1


class Runtime:
    """Everything with a life of its own in one process.

    Args:
        settings: of the process.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.model = settings.model or str(bundled("model"))
        default = Path(self.model).name if settings.model else DEMO_NAME
        self.family = family_of(self.model)
        self.model_name = settings.served_model_name or default
        self.devices = [torch.device(name) for name in _device(settings.device).split(",")]
        self.dtype = _dtype(settings.dtype, self.devices[0])
        self.issuer = Issuer(settings)
        self.gatekeeper = Gatekeeper(settings)
        self.in_flight = InFlight()
        self.admission = Admission()
        self.fetcher = _fetcher(settings)
        #: Where pictures are decoded: not among the threads that everything else waits for.
        self.decoders = ThreadPoolExecutor(_DECODERS, "decode")
        self.engine = self._make_engine()
        self.smoother: Smoother | None = None
        self.failure: SmoothgateError | None = None
        self.created = int(time.time())
        self.canary = Canary(self, lambda: not self._parts_down()) if settings.canary_seconds else None
        self._beside: list[asyncio.Task[None]] = []
        self._restarts_seen = 0

    async def start(self) -> None:
        """Start the engine, load the encoder beside it, start the sampler.

        Raises:
            SmoothgateError: the model, its calibration or the settings do not fit together, or the default
                budget could certify nothing.
        """
        await self.engine.start()
        try:
            self.smoother = await asyncio.to_thread(self._load_smoother)
            plan = SmoothingOptions().plan(self.settings)
            await asyncio.to_thread(plan.require_reachable, 1, self.smoother.chance_cosine)
        except BaseException as error:
            if isinstance(error, SmoothgateError):
                self.failure = error
            await self.engine.stop()
            raise
        sampler = self.smoother.sampler
        sampler.start()
        metrics.SAMPLER_UP.set_function(lambda: float(sampler.alive))
        metrics.QUEUED_SAMPLES.set_function(lambda: float(sampler.queued_samples))
        metrics.QUEUED_SECONDS.set_function(lambda: sampler.queued_seconds)
        metrics.READY.set_function(lambda: float(not self.problems()))
        self._beside = [asyncio.create_task(_keep_alive(sampler))]
        if self.canary is not None:
            self._beside.append(asyncio.create_task(self.canary.run()))

    async def stop(self) -> None:
        """Let requests in flight finish, then end everything."""
        for task in self._beside:
            task.cancel()
        await asyncio.gather(*self._beside, return_exceptions=True)
        if self.smoother is not None:
            await asyncio.to_thread(self.smoother.sampler.close)
        await self.engine.stop()
        if self.fetcher is not None:
            await self.fetcher.aclose()
        self.decoders.shutdown(wait=False, cancel_futures=True)

    def problems(self) -> dict[str, str]:
        """What keeps the service from being sent requests, by part; empty when it is ready."""
        found = self._parts_down()
        if self.gatekeeper.draining:
            found["service"] = "draining"
        if self.canary is not None and self.canary.problem is not None:
            found["canary"] = self.canary.problem
        return found

    def _parts_down(self) -> dict[str, str]:
        found = {}
        if self.engine.status.state is not EngineState.READY:
            found["engine"] = self.engine.status.state.value
        if self.smoother is None:
            found["encoder"] = "loading"
        elif not self.smoother.sampler.alive:
            found["sampler"] = "down"
        elif self.smoother.sampler.stalled_seconds > _STALL_SECONDS:
            found["sampler"] = "stalled"
        return found

    def require_ready(self, *parts: str) -> Smoother:
        """The smoother, if every part that an answer needs is up, or those that are named.

        A canary that failed keeps requests away (`problems`), but does not refuse those that come: a load
        balancer with nowhere else to send them sends them here.

        Raises:
            NotReady: naming the part that is not.
        """
        problems = {part: state for part, state in self._parts_down().items() if not parts or part in parts}
        if problems or self.smoother is None:
            listing = ", ".join(f"{part} {state}" for part, state in problems.items())
            raise NotReady(f"The service is not ready: {listing}.", retry_after=5)
        return self.smoother

    def _make_engine(self) -> Engine:
        s = self.settings
        if s.engine_url is not None:
            key = s.engine_api_key.get_secret_value() if s.engine_api_key else None
            return RemoteEngine(
                s.engine_url,
                api_key=key,
                read_timeout=s.engine_read_timeout_seconds,
                on_change=self._engine_changed,
            )
        options = VLLMOptions(
            model=self.model,
            served_model_name=self.model_name,
            dtype=str(self.dtype).removeprefix("torch."),
            max_model_len=s.engine_max_model_len,
            kv_cache_gib=s.engine_kv_cache_gib,
            drain_seconds=s.shutdown_timeout_seconds,
            tracing_url=s.tracing_url,
            # A limit above 0 is that of the images of a request.
            media_limits={
                kind: s.max_images if limit else 0 for kind, limit in self.family.engine_limits.items()
            },
            prompt_embeds=self.family.part_type == "prompt_embeds",
            extra_args=s.engine_args,
        )
        return LocalEngine(
            options,
            Supervision(start_timeout=s.engine_start_timeout_seconds),
            read_timeout=s.engine_read_timeout_seconds,
            on_change=self._engine_changed,
        )

    def _engine_changed(self, status: EngineStatus) -> None:
        metrics.ENGINE_UP.set(status.state is EngineState.READY)
        metrics.ENGINE_RESTARTS.inc(status.restarts - self._restarts_seen)
        self._restarts_seen = status.restarts

    def _load_smoother(self) -> Smoother:
        s = self.settings
        disable_progress_bar()
        encoders = [
            UnitEncoder.load(load(self.model, device=device, dtype=self.dtype), self.psm_folder())
            for device in self.devices
        ]
        encoder = encoders[0]
        if encoder.psm.is_identity and s.sigma > _BARE_SIGMA:
            log.warning(
                "no PSM: few encoders stand this much noise without one; see `smoothgate psm train`",
                sigma=s.sigma,
            )
        device, adapter = self.devices[0], encoder.adapter
        shape = adapter.canvas_shape or adapter.canvas(_TYPICAL).x.shape
        tuning = autotune(encoder.units, shape, device, threads=s.threads, batch_size=s.batch_size)
        workers = [
            Worker(each.units, device, tuning.threads)
            for each, device in zip(encoders, self.devices, strict=True)
            for _ in range(tuning.workers)
        ]
        log.info(
            "encoder ready",
            model=self.model_name,
            devices=[str(each) for each in self.devices],
            dtype=str(self.dtype),
            **asdict(tuning),
        )
        sampler = Sampler(
            workers,
            tuning.batch_size,
            rate=len(self.devices) * tuning.samples_per_second,
            one_shape=adapter.canvas_shape is not None,
            batch_values=tuning.batch_size * math.prod(shape),
        )
        return Smoother(encoder, sampler, self.model_name, cache_bytes=s.cache_mib * 2**20)

    def psm_folder(self) -> Path:
        """Where purifier, mapper and calibration are; SmoothgateError where none are known."""
        if self.settings.psm is not None:
            return self.settings.psm
        if self.settings.model is not None:
            raise SmoothgateError(
                "SMOOTHGATE_PSM is not set: make one with "
                "`smoothgate psm train --model ... --images DIR --output FOLDER`, or a calibration "
                "alone with `psm calibrate`, and name the folder.",
                code="no_calibration",
            )
        return bundled("psm")


async def _keep_alive(sampler: Sampler) -> None:
    """Start the sampler again when its thread has died."""
    while True:
        await asyncio.sleep(_WATCH_SECONDS)
        if not sampler.alive:
            log.error("starting the sampler again")
            sampler.start()


def _fetcher(settings: Settings) -> Fetcher | None:
    if not settings.url_hosts:
        return None
    try:
        return Fetcher(
            settings.url_hosts, max_bytes=settings.max_image_bytes, timeout=settings.url_timeout_seconds
        )
    except ValueError as error:
        raise SmoothgateError(f"SMOOTHGATE_URL_HOSTS: {error}", code="bad_url_hosts") from error


def _device(wanted: str) -> str:
    if wanted != "auto":
        return wanted
    return "cuda" if torch.cuda.is_available() else "cpu"


def _dtype(wanted: str, device: torch.device) -> torch.dtype:
    if wanted == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    dtype: torch.dtype = getattr(torch, wanted)
    return dtype

"""Loads the encoder on its devices and sets up the sampler as it was measured to be fastest there."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np

from smoothgate.errors import SmoothgateError
from smoothgate.gate.served_model import ServedModel
from smoothgate.logs import get_logger
from smoothgate.psm.unit_encoder import UnitEncoder
from smoothgate.sampling.autotune import autotune
from smoothgate.sampling.noise_seeds import NoiseSeeds
from smoothgate.sampling.sampler import Sampler, Worker
from smoothgate.sampling.smoother import Smoother
from smoothgate.vision import DecodedImage, load

# Where the size of a canvas depends on the image, the sampler is measured with this one.
_TYPICAL = DecodedImage(np.zeros((448, 448, 3), np.uint8), "PNG", "")
# The noise that an encoder stands without a PSM (docs/psm.md).
_BARE_SIGMA = 0.1

log = get_logger("smoother")


def load_noise_seeds(secret_file: Path | None) -> NoiseSeeds:
    """The seeds of a secret.

    Args:
        secret_file: holds the secret, between whitespace that does not count; None: makes a new secret.

    Raises:
        SmoothgateError: code `bad_noise_secret`: the file cannot be read, or the secret is too short.
    """
    if secret_file is None:
        log.warning(
            "the noise follows from a secret made at this start; set SMOOTHGATE_NOISE_SECRET_FILE, so that a "
            "picture has the same noise on every replica and after every start",
        )
        return NoiseSeeds.generate()
    try:
        return NoiseSeeds(secret_file.read_bytes().strip())
    except (OSError, ValueError) as error:
        raise SmoothgateError(
            f"SMOOTHGATE_NOISE_SECRET_FILE: {secret_file} cannot be used: {error}.", code="bad_noise_secret"
        ) from error


class SmootherLoading:
    """Loads the encoder, and later measures its devices: beside a vLLM that starts, they would look slow.

    Args:
        model: what is served.
        sigma: usual noise, for a warning where the encoder may not stand it.
        seeds: of the noise of each picture.
        threads: CPU threads of the sampler in all; 0: one per core.
        batch_size: noisy forwards per batch; 0: measured.
        cache_bytes: of results kept; 0: none.
        max_canvas_pixels: the most pixels of a canvas; None: as many as the model makes.
    """

    def __init__(
        self,
        model: ServedModel,
        *,
        sigma: float,
        seeds: NoiseSeeds,
        threads: int,
        batch_size: int,
        cache_bytes: int,
        max_canvas_pixels: int | None,
    ) -> None:
        self._model = model
        self._sigma = sigma
        self._seeds = seeds
        self._threads = threads
        self._batch_size = batch_size
        self._cache_bytes = cache_bytes
        self._max_canvas_pixels = max_canvas_pixels
        self._encoders: list[UnitEncoder] = []

    def load(self) -> Smoother:
        """A smoother that has no sampler yet, over the encoder, which is loaded once per device.

        Raises:
            SmoothgateError: model, PSM and calibration are missing or do not fit together, or every canvas of
                the model exceeds the limit.
        """
        model = self._model
        self._encoders = [
            UnitEncoder.load(
                load(
                    model.checkpoint,
                    device=device,
                    dtype=model.dtype,
                    max_canvas_pixels=self._max_canvas_pixels,
                ),
                model.psm,
            )
            for device in model.devices
        ]
        encoder = self._encoders[0]
        if encoder.psm.is_identity and self._sigma > _BARE_SIGMA:
            log.warning(
                "no PSM: few encoders stand this much noise without one; see `smoothgate psm train`",
                sigma=self._sigma,
            )
        if encoder.calibration.chance_at(self._sigma) is None:
            log.warning(
                "not calibrated: every certificate at this noise is vacuous; see `smoothgate psm calibrate`",
                sigma=self._sigma,
            )
        return Smoother(encoder, None, model.name, seeds=self._seeds, cache_bytes=self._cache_bytes)

    def make_sampler(self) -> Sampler:
        """A sampler, not started, that uses the devices as it was measured to be fastest. After `load`.

        Raises:
            SmoothgateError: code `no_memory`: there is no room for the smallest batch.
        """
        encoder = self._encoders[0]
        adapter = encoder.adapter
        typical = adapter.canvas(_TYPICAL)
        one_shape = adapter.canvas_shape is not None
        tuning = autotune(
            encoder.units,
            typical,
            adapter.device,
            one_shape=one_shape,
            threads=self._threads,
            batch_size=self._batch_size,
        )
        workers = [
            Worker(each.units, each.adapter.device, tuning.threads)
            for each in self._encoders
            for _ in range(tuning.workers)
        ]
        log.info(
            "encoder ready",
            model=self._model.name,
            devices=[str(each.adapter.device) for each in self._encoders],
            dtype=str(adapter.dtype),
            **asdict(tuning),
        )
        return Sampler(
            workers,
            tuning.batch_size,
            rate=len(self._encoders) * tuning.samples_per_second,
            one_shape=one_shape,
            typical=typical,
        )

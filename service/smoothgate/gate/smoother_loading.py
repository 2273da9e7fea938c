"""Loads the encoder on its devices and sets up the sampler as it was measured to be fastest there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import structlog
from transformers.utils.logging import disable_progress_bar

from smoothgate.gate.served_model import ServedModel
from smoothgate.psm.unit_encoder import UnitEncoder
from smoothgate.sampling.autotune import autotune
from smoothgate.sampling.sampler import Sampler, Worker
from smoothgate.sampling.smoother import Smoother
from smoothgate.vision import DecodedImage, load

# Where the size of a canvas depends on the image, the sampler is measured with this one.
_TYPICAL = DecodedImage(np.zeros((448, 448, 3), np.uint8), "PNG", "")
# The noise that an encoder stands without a PSM (docs/psm.md).
_BARE_SIGMA = 0.1

log = structlog.get_logger("smoother")


def load_encoders(model: ServedModel, max_canvas_pixels: int | None = None) -> list[UnitEncoder]:
    """The encoder, once per device.

    Args:
        model: what is loaded.
        max_canvas_pixels: the most pixels of a canvas; None: as many as the model makes.

    Raises:
        SmoothgateError: model, PSM and calibration are missing or do not fit together, or every canvas of the
            model has more pixels.
    """
    disable_progress_bar()
    return [
        UnitEncoder.load(
            load(model.checkpoint, device=device, dtype=model.dtype, max_canvas_pixels=max_canvas_pixels),
            model.psm,
        )
        for device in model.devices
    ]


def make_smoother(
    encoders: Sequence[UnitEncoder],
    name: str,
    *,
    sigma: float,
    threads: int,
    batch_size: int,
    cache_bytes: int,
) -> Smoother:
    """A smoother over encoders of one model; its sampler is not started yet.

    Args:
        encoders: one per device.
        name: of the model, for certificates.
        sigma: usual noise, for a warning where the encoder may not stand it.
        threads: CPU threads of the sampler in all; 0: one per core.
        batch_size: noisy forwards per batch; 0: measured.
        cache_bytes: of results kept; 0: none.
    """
    encoder = encoders[0]
    adapter = encoder.adapter
    if encoder.psm.is_identity and sigma > _BARE_SIGMA:
        log.warning(
            "no PSM: few encoders stand this much noise without one; see `smoothgate psm train`", sigma=sigma
        )
    shape = adapter.canvas_shape or adapter.canvas(_TYPICAL).x.shape
    tuning = autotune(encoder.units, shape, adapter.device, threads=threads, batch_size=batch_size)
    workers = [
        Worker(each.units, each.adapter.device, tuning.threads)
        for each in encoders
        for _ in range(tuning.workers)
    ]
    log.info(
        "encoder ready",
        model=name,
        devices=[str(each.adapter.device) for each in encoders],
        dtype=str(adapter.dtype),
        **asdict(tuning),
    )
    sampler = Sampler(
        workers,
        tuning.batch_size,
        rate=len(encoders) * tuning.samples_per_second,
        one_shape=adapter.canvas_shape is not None,
        typical_values=None if adapter.canvas_shape else math.prod(shape),
    )
    return Smoother(encoder, sampler, name, cache_bytes=cache_bytes)

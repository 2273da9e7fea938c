"""What a device shows of the sampler: that its results are right there, and how fast they come.

The tower is that of LLaVA-1.5-7B with random weights, so that nothing has to be downloaded: the arithmetic
and its cost are the real ones, and what certificates say is worth nothing.
"""

from __future__ import annotations

import asyncio
import io
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from smoothgate.certify.certificate import Certificate
from smoothgate.certify.signing import SigningKey, jwks
from smoothgate.psm.unit_encoder import UnitEncoder
from smoothgate.sampling.device import Device, seconds_between, wait_for
from smoothgate.sampling.draw import Units
from smoothgate.sampling.forward import Forward
from smoothgate.sampling.noise_seeds import NoiseSeeds
from smoothgate.sampling.rehearsal import rehearse
from smoothgate.sampling.sampler import Sampler, Worker
from smoothgate.sampling.sampling_plan import Plan
from smoothgate.sampling.smoother import Smoother
from smoothgate.sampling.ticket import SamplingTask, Ticket
from smoothgate.verification import check
from smoothgate.vision import Canvas, Layout, decode
from smoothgate_lab.benchmarks.random_llava import (
    Sizes,
    diffusion_purifier,
    light_purifier,
    random_adapter,
    with_purifier,
)

SIGMA = 0.25
#: Largest difference of a score, (1 + cosine) / 2, that another order of sums may make: as for `verify`.
TOLERANCE = {"float32": 1e-5, "bfloat16": 2e-3, "float16": 1e-3}


@dataclass(frozen=True, slots=True)
class Amount:
    """How much is measured. The defaults are meant for a GPU.

    Attributes:
        sizes: of the encoder.
        batch: samples of a batch.
        n_select, n_certify: samples of the picture that is certified end to end.
        replayed: samples of the certificates that are replayed, for each of the two splits.
        rounds: measurements of speed, which alternate between the bare forward and whole batches.
        timed: batches of each of them.
    """

    sizes: Sizes = field(default_factory=Sizes)
    batch: int = 32
    n_select: int = 128
    n_certify: int = 1024
    replayed: int = 64
    rounds: int = 3
    timed: int = 8


#: For a CPU, and for tests.
SMALL = Amount(
    Sizes(side=16, patch=8, width=64, mlp=128, layers=3, heads=4, hidden=64, unet=(32, 32)),
    batch=8,
    n_select=8,
    n_certify=32,
    replayed=8,
    rounds=1,
    timed=1,
)


def run(
    device: torch.device, dtype: torch.dtype, amount: Amount, step: Callable[[str], None]
) -> dict[str, Any]:
    """Run all of it.

    Args:
        device: where the encoder runs.
        dtype: its arithmetic.
        amount: how much is measured.
        step: called with what is measured next.

    Returns:
        `machine`: `device`, `torch`, `dtype`; `amount`: as in `Amount`; `checks`: rows of `name`, `passed`,
        `difference` (largest of a score) and `tolerance`, both null where nothing is compared so, and
        `detail`; `speed`: one row for each `purifier` with samples a second `bare` (the forward alone) and
        `batches` (with noise and scores), medians of the rounds, `share` (median of their ratios), and
        `seconds` of one picture end to end with its number of `samples`; `seconds` of the whole run.
    """
    began = time.monotonic()
    step("random weights")
    adapter = random_adapter(amount.sizes, device, dtype)
    encoder = with_purifier(adapter, light_purifier(amount.sizes))
    checks = []
    for name, checked in _CHECKS.items():
        step(name)
        checks.append({"name": name, **asdict(checked(encoder, amount))})
    speed = []
    for purifier, network in _PURIFIERS.items():
        step(f"speed with the {purifier} purifier")
        speed.append({"purifier": purifier, **_speed(with_purifier(adapter, network(amount.sizes)), amount)})
    on_cuda = device.type == "cuda"
    return {
        "machine": {
            "device": torch.cuda.get_device_name(device) if on_cuda else platform.processor() or "cpu",
            "torch": torch.__version__,
            "dtype": str(dtype).removeprefix("torch."),
        },
        "amount": asdict(amount),
        "checks": checks,
        "speed": speed,
        "seconds": time.monotonic() - began,
    }


@dataclass(frozen=True, slots=True)
class _Found:
    passed: bool
    difference: float | None = None
    tolerance: float | None = None
    detail: str = ""


def _compared(here: Sequence[float], there: Sequence[float], encoder: UnitEncoder, detail: str) -> _Found:
    tolerance = TOLERANCE[str(encoder.adapter.dtype).removeprefix("torch.")]
    difference = float(np.abs(np.subtract(here, there)).max())
    return _Found(difference <= tolerance, difference, tolerance, detail)


def _replayed(encoder: UnitEncoder, amount: Amount) -> _Found:
    """A certificate of the sampler is confirmed by `verify`, all of it."""
    picture = _picture(amount.sizes.side)
    with _sampler(encoder.units, encoder, amount) as sampler:
        certificate, _ = _certified(
            Smoother(encoder, sampler, "random", seeds=NoiseSeeds.generate()),
            picture,
            amount.replayed,
            amount.replayed,
        )
    key = SigningKey.generate()
    checks = list(check(key.sign(certificate), None, jwks([key]), picture, lambda limit: encoder))
    failed = [f"{one.name}: {one.detail}" for one in checks if not one.passed]
    return _Found(not failed, detail="; ".join(failed) or f"{len(checks)} checks of the certificate")


def _batch_is_single(encoder: UnitEncoder, amount: Amount) -> _Found:
    """Samples have the same scores in a full batch and each alone."""

    with _sampler(encoder.units, encoder, amount) as sampler:
        batch = _scores(sampler, encoder, amount)
    with _sampler(encoder.units, encoder, amount, batch=1, one_shape=False) as sampler:
        single = _scores(sampler, encoder, amount)
    return _compared(batch, single, encoder, f"batches of {amount.batch}, and of 1 that is not compiled")


def _two_threads(encoder: UnitEncoder, amount: Amount) -> _Found:
    """Two threads, each with its own stream, give the scores that one gives."""

    def scores(threads: int) -> list[float]:
        with _sampler(encoder.units, encoder, amount, threads=threads) as sampler:
            return _scores(sampler, encoder, amount)

    return _compared(scores(2), scores(1), encoder, "scores of two threads and of one")


def _halved(encoder: UnitEncoder, amount: Amount) -> _Found:
    """Where memory has room for a quarter of a batch, the scores are the same."""
    room, sizes = amount.batch // 4, set()

    def limited(z: Tensor, sigma: Tensor, layout: Layout = ()) -> Tensor:
        if len(z) > room:
            raise torch.OutOfMemoryError(f"{len(z)} samples in a room for {room}")
        sizes.add(len(z))
        return encoder.units(z, sigma, layout)

    with _sampler(encoder.units, encoder, amount) as sampler:
        whole = _scores(sampler, encoder, amount)
    # Compiled code cannot raise: without one shape, nothing is compiled.
    with _sampler(limited, encoder, amount, one_shape=False) as sampler:
        halves = _scores(sampler, encoder, amount)
    return _compared(halves, whole, encoder, f"batches of at most {max(sizes)} instead of {amount.batch}")


_CHECKS: dict[str, Callable[[UnitEncoder, Amount], _Found]] = {
    "a certificate is replayed": _replayed,
    "a batch is as good as single samples": _batch_is_single,
    "two threads are as good as one": _two_threads,
    "memory that runs out halves the batch": _halved,
}

_PURIFIERS: dict[str, Callable[[Sizes], nn.Module]] = {
    "light": light_purifier,
    "diffusion": diffusion_purifier,
}


def _speed(encoder: UnitEncoder, amount: Amount) -> dict[str, Any]:
    device = Device(encoder.adapter.device, torch.get_num_threads())
    device.enter()
    forward = Forward(encoder.units, device, amount.batch)
    rows = amount.batch * amount.timed
    bare, batches = [], []
    for _ in range(amount.rounds):
        bare.append(_bare(forward.units, device, encoder, amount))
        batches.append(rows / rehearse(forward, _canvas(encoder), amount.batch, amount.timed))
    with _sampler(encoder.units, encoder, amount) as sampler:
        smoother = Smoother(encoder, sampler, "random", seeds=NoiseSeeds.generate())
        _, seconds = _certified(smoother, _picture(amount.sizes.side), amount.n_select, amount.n_certify)
    return {
        "bare": statistics.median(bare),
        "batches": statistics.median(batches),
        "share": statistics.median(one / other for one, other in zip(batches, bare, strict=True)),
        "samples": amount.n_select + amount.n_certify,
        "seconds": seconds,
    }


@torch.inference_mode()
def _bare(units: Units, device: Device, encoder: UnitEncoder, amount: Amount) -> float:
    """Samples a second of the forward alone, on the same input again and again."""
    z = torch.rand((amount.batch, *_canvas(encoder).x.shape), device=encoder.adapter.device)
    sigma = torch.full((amount.batch,), SIGMA, device=encoder.adapter.device)
    for _ in range(3):  # compiles, and records the graphs
        units(z, sigma)
    began = device.mark()
    for _ in range(amount.timed):
        units(z, sigma)
    ended = device.mark()
    wait_for(ended)
    return amount.batch * amount.timed / seconds_between(began, ended)


@contextmanager
def _sampler(
    units: Units,
    encoder: UnitEncoder,
    amount: Amount,
    *,
    batch: int | None = None,
    threads: int = 1,
    one_shape: bool = True,
) -> Iterator[Sampler]:
    """A sampler that has warmed up."""
    worker = Worker(units, encoder.adapter.device, max(1, torch.get_num_threads() // threads))
    sampler = Sampler(
        [worker] * threads, batch or amount.batch, one_shape=one_shape, typical=_canvas(encoder)
    )
    sampler.start()
    try:
        while not sampler.warm:
            if not sampler.alive:
                raise RuntimeError("a sampler thread died while it warmed up; the log says why")
            time.sleep(0.01)
        yield sampler
    finally:
        sampler.close()


def _scores(sampler: Sampler, encoder: UnitEncoder, amount: Amount) -> list[float]:
    """All scores of two pictures that are sampled at the same time, always with the same noise."""
    n = amount.replayed
    tickets = []
    for seed in (5, 6):
        task = SamplingTask(_canvas(encoder, seed).x, _plan(n, n).terms(1, 0.0), n, n)
        tickets.append(Ticket(task, seed))
        sampler.submit(tickets[-1])
    return [float(score) for ticket in tickets for score in ticket.result.result(300).rule.scores]


def _certified(
    smoother: Smoother, picture: bytes, n_select: int, n_certify: int
) -> tuple[Certificate, float]:
    """The certificate of a picture, and its seconds."""

    async def certified() -> Certificate:
        image = decode(picture, max_pixels=10**7)
        plan = _plan(n_select, n_certify)
        smoothed = await smoother.prepare(image, plan, images=1, deadline=float("inf"))
        smoothed.begin()
        return await smoothed.certificate()

    began = time.perf_counter()
    return asyncio.run(certified()), time.perf_counter() - began


def _plan(n_select: int, n_certify: int) -> Plan:
    return Plan(SIGMA, n_select, n_certify, alpha=0.001, eps=(SIGMA / 4,), cosine_threshold=0.5)


def _canvas(encoder: UnitEncoder, seed: int = 5) -> Canvas:
    shape = encoder.adapter.canvas_shape
    assert shape is not None  # noqa: S101
    return Canvas(torch.rand(shape, generator=torch.Generator().manual_seed(seed)), 1.0)


def _picture(side: int) -> bytes:
    """A PNG of coarse random colours."""
    colours = np.random.default_rng(7).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(colours).resize((side, side), Image.Resampling.BICUBIC).save(file, "PNG")
    return file.getvalue()

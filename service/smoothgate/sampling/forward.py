"""Noisy forwards on one device: noise, purifier, encoder, mapper, normalisation, and the scores of what comes
out.

Nothing between `launch` and `Scored.fetch` waits for the device, so that the next batch can be queued behind
the present one. On CUDA batches have one shape, filled up with rows that nobody looks at, and the forward is
compiled into CUDA graphs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from smoothgate.certify.scores import Array
from smoothgate.sampling import noise
from smoothgate.sampling.draw import Units, noisy
from smoothgate.sampling.job import Job
from smoothgate.sampling.queue import Slice


@dataclass(frozen=True, slots=True)
class Scored:
    """A batch on its way: whose scores come, and where they will be.

    Attributes:
        batch: as it was launched.
        pieces: (job, first sample, number of scores), in the order of `scores`.
        scores: float64; on the CPU, complete once `done` is.
        done: event of the device's stream, or None where it does not run ahead.
    """

    batch: Sequence[Slice]
    pieces: list[tuple[Job, int, int]]
    scores: Tensor
    done: torch.cuda.Event | None

    def fetch(self) -> list[tuple[Job, int, Array]]:
        """(job, first sample, scores); waits for the device."""
        if self.done is not None:
            self.done.synchronize()
        values = self.scores.numpy()
        ends = np.cumsum([size for _, _, size in self.pieces])
        return [
            (job, first, values[end - size : end])
            for (job, first, size), end in zip(self.pieces, ends.tolist(), strict=True)
        ]


class Forward:
    """The unit of work on one device.

    Args:
        units: the encoder, on `device`.
        device: where.
        batch_size: rows of a batch where its shape must not change, as on CUDA; else the most there are.
        one_shape: whether all canvases have the same; where not, nothing is compiled.

    Attributes:
        noise: what it draws from.
        depth: batches that may be under way at a time.
    """

    def __init__(
        self, units: Units, device: torch.device, batch_size: int, *, one_shape: bool = True
    ) -> None:
        self.device = device
        self.noise = noise.generator_for(device)
        self._on_cuda = device.type == "cuda"
        self.depth = 2 if self._on_cuda else 1
        self._rows = batch_size if self._on_cuda and one_shape else None
        self._units = units
        if self._on_cuda and one_shape:
            self._units = torch.compile(units, mode="reduce-overhead", dynamic=False)

    @torch.inference_mode()
    def launch(self, batch: Sequence[Slice]) -> Scored:
        """Queue a batch."""
        scored = self.score(batch)
        pieces = [(job, first, len(scores)) for job, first, scores in scored]
        values = torch.cat([scores for _, _, scores in scored]) if scored else torch.empty(0)
        if not self._on_cuda:
            return Scored(batch, pieces, values, None)
        host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
        host.copy_(values, non_blocking=True)
        done = torch.cuda.Event()  # type: ignore[no-untyped-call]
        done.record()
        return Scored(batch, pieces, host, done)

    @torch.inference_mode()
    def score(self, batch: Sequence[Slice]) -> list[tuple[Job, int, Tensor]]:
        """What `launch` does on the device: (job, first sample, scores)."""
        features = self.features(batch)
        scored = []
        row = 0
        for each in batch:
            mine = features[row : row + each.count]
            scored += [(each.job, first, scores) for first, scores in each.job.score(each.first, mine)]
            row += each.count
        return scored

    def features(self, batch: Sequence[Slice]) -> Tensor:
        """Unit features (rows, T * D) float32 of the samples of a batch, in its order."""
        count = sum(each.count for each in batch)
        rows = self._rows or count
        z = torch.empty((rows, *batch[0].job.x.shape), device=self.device)
        samples: list[noise.SampleId] = [
            (each.job.seed, number) for each in batch for number in range(each.first, each.first + each.count)
        ]
        self.noise.fill(z[:count], samples)
        z[count:] = 0
        levels = torch.tensor(
            [each.job.terms.sigma for each in batch for _ in range(each.count)] + [1.0] * (rows - count),
            pin_memory=self._on_cuda,
        ).to(self.device, non_blocking=True)
        row = 0
        for each in batch:
            mine = slice(row, row + each.count)
            noisy(each.job.canvas(self.device), levels[mine], z[mine])
            row += each.count
        with torch.autocast("cuda", torch.bfloat16, enabled=self._on_cuda):
            return self._units(z, levels, batch[0].job.layout).float()

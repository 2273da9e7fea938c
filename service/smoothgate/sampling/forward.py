"""Noisy forwards on one device: noise, purifier, encoder, mapper, normalisation, and what tickets collect.

Nothing between `launch` and `LaunchedBatch.fetch` waits for the device, so that the next batch can be queued
behind the present one. On CUDA batches have one shape, filled up with rows that nobody looks at, and the
forward is compiled into CUDA graphs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from smoothgate import metrics
from smoothgate.logs import get_logger
from smoothgate.sampling import noise
from smoothgate.sampling.base_ticket import BaseTicket
from smoothgate.sampling.device import Device, Mark, seconds_between, wait_for
from smoothgate.sampling.draw import Units, noisy
from smoothgate.sampling.queue import SampleRange

log = get_logger("sampler")


@dataclass(frozen=True, slots=True)
class LaunchedBatch:
    """A batch on its way.

    Attributes:
        batch: as it was launched.
        pieces: (ticket, first sample, values), as `BaseTicket.collect` returned them; the values on the CPU,
            complete once the device has come to `done`.
        rows: forwards that were computed, with those that only fill up.
        began, done: points in the device's work.
    """

    batch: Sequence[SampleRange]
    pieces: list[tuple[BaseTicket, int, Tensor]]
    rows: int
    began: Mark
    done: Mark

    def fetch(self) -> list[tuple[BaseTicket, int, Tensor]]:
        """(ticket, first sample, values); waits for the device."""
        wait_for(self.done)
        return self.pieces

    @property
    def seconds(self) -> float:
        """Time of the device for this batch alone, after `fetch`."""
        return seconds_between(self.began, self.done)


class Forward:
    """The unit of work on one device. One thread uses it, after it has entered the device.

    Where a batch does not fit into the device's memory, it is computed in halves, and so are later ones.

    Args:
        units: the encoder, on `device`.
        device: where it is.
        batch_size: rows of a batch where its shape must not change, as on CUDA; else the most there are.
        one_shape: whether all canvases have one shape. If not, nothing is compiled.

    Attributes:
        units: the encoder, compiled where it is.
        depth: batches that may be under way at a time.
    """

    def __init__(self, units: Units, device: Device, batch_size: int, *, one_shape: bool = True) -> None:
        self._owner = device
        self.device = device.place
        self._on_cuda = device.runs_ahead
        self.depth = 2 if self._on_cuda else 1
        self._most_values: int | None = None  # canvas values that memory has room for at a time, where known
        self._rows = batch_size if self._on_cuda and one_shape else None
        self.units = units
        if self._on_cuda and one_shape:
            self.units = torch.compile(units, mode="reduce-overhead", dynamic=False)
        # Copied to the device once per ticket.
        self._canvases: WeakKeyDictionary[BaseTicket, Tensor] = WeakKeyDictionary()

    @property
    def halved(self) -> bool:
        """Whether a batch was computed in halves because memory ran out."""
        return self._most_values is not None

    @torch.inference_mode()
    def launch(self, batch: Sequence[SampleRange]) -> LaunchedBatch:
        """Queue a batch."""
        began = self._owner.mark()
        pieces = [(ticket, first, self._to_cpu(values)) for ticket, first, values in self.collect(batch)]
        rows = max(self._rows or 0, sum(each.count for each in batch))
        return LaunchedBatch(batch, pieces, rows, began, self._owner.mark())

    @torch.inference_mode()
    def collect(self, batch: Sequence[SampleRange]) -> list[tuple[BaseTicket, int, Tensor]]:
        """What `launch` does on the device: (ticket, first sample, values).

        The scores of selection samples come with the batch that holds the last of them, all at once.
        """
        features = self.features(batch)
        collected = []
        for each, rows in _rows_of(batch):
            with each.ticket.failing_alone("selection"):
                if (values := each.ticket.collect(each.first, features[rows])) is not None:
                    collected.append((each.ticket, *values))
        return collected

    def _to_cpu(self, values: Tensor) -> Tensor:
        if not self._on_cuda:
            return values
        host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
        return host.copy_(values, non_blocking=True)

    def features(self, batch: Sequence[SampleRange]) -> Tensor:
        """Unit features (rows, T * D) float32 of the samples of a batch, in its order.

        Raises:
            torch.OutOfMemoryError: there is no room for a single sample.
        """
        values = batch[0].ticket.x.numel()
        rows = sum(each.count for each in batch)
        while True:
            most = rows if self._most_values is None else max(1, min(rows, self._most_values // values))
            try:
                return torch.cat([self._features(part) for part in _parts(batch, most)])
            except torch.OutOfMemoryError:
                if most == 1:
                    raise
                metrics.BATCHES_HALVED.inc()
                log.warning("a batch did not fit into the memory of the device", samples=most)
                self._most_values = most // 2 * values
            if self._on_cuda:
                torch.cuda.empty_cache()

    def _features(self, batch: Sequence[SampleRange]) -> Tensor:
        samples = [
            (each.ticket.seed, noise.sample_number(sample, each.ticket.n_select))
            for each in batch
            for sample in range(each.first, each.first + each.count)
        ]
        count = len(samples)
        image = batch[0].ticket
        fixed = self._rows or count
        if self._most_values is not None:
            fixed = max(count, min(fixed, self._most_values // image.x.numel()))
        padding = fixed - count
        z = torch.empty((count + padding, *image.x.shape), device=self.device)
        noise.GENERATOR.fill(z[:count], samples)
        z[count:] = 0
        levels = torch.tensor(
            [each.ticket.sigma for each in batch for _ in range(each.count)] + [1.0] * padding,
            pin_memory=self._on_cuda,
        ).to(self.device, non_blocking=True)
        for each, rows in _rows_of(batch):
            noisy(self._canvas(each.ticket), levels[rows], z[rows])
        return self.units(z, levels, image.layout)[:count].float()

    def _canvas(self, ticket: BaseTicket) -> Tensor:
        if ticket not in self._canvases:
            x = ticket.x.pin_memory() if self._on_cuda else ticket.x
            self._canvases[ticket] = x.to(self.device, non_blocking=True)
        return self._canvases[ticket]


def _parts(batch: Sequence[SampleRange], most: int) -> Iterator[list[SampleRange]]:
    """A batch in parts of at most `most` samples, in its order."""
    part: list[SampleRange] = []
    room = most
    for each in batch:
        first, count = each.first, each.count
        while count:
            taken = min(count, room)
            part.append(SampleRange(each.ticket, first, taken))
            first, count, room = first + taken, count - taken, room - taken
            if not room:
                yield part
                part, room = [], most
    if part:
        yield part


def _rows_of(batch: Sequence[SampleRange]) -> Iterator[tuple[SampleRange, slice]]:
    """The rows of each part of a batch."""
    row = 0
    for each in batch:
        yield each, slice(row, row + each.count)
        row += each.count

"""What is drawn next: samples of all waiting tickets, packed into batches.

Requests share the device by start-time fair queueing (Goyal et al. 1996). Each request has a clock that its
work moves on. The request whose clock is furthest behind is served next, and a newcomer starts at the clock
of the one furthest behind. A request that is passed over falls behind all newcomers, so that none starves.
Selection samples go first, since answers wait for them, but only in three batches of four, and only as long
as their request is little ahead of the others.

Work is counted in forwards of a canvas of typical size: a sample of a canvas with four times as many pixels
is four units of work. So a large picture takes no more of the device than a small one.
"""

from __future__ import annotations

import heapq
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field

import torch

from smoothgate.sampling.ticket import Ticket

# Work that a request is given at a time: enough to keep the copies few, few enough to be fair.
_QUANTUM = 8
_FAIR_EVERY = 4
# Work by which a request may be ahead of the one furthest behind and still have its selection go first: the
# selection samples of a typical canvas.
_LEAD = 128


@dataclass(frozen=True, slots=True)
class SampleRange:
    """Consecutive samples of one ticket: numbers first .. first + count - 1."""

    ticket: Ticket
    first: int
    count: int


@dataclass(slots=True, eq=False)
class _Entry:
    """A ticket in the queue.

    Attributes:
        ticket: which.
        size: work of one sample.
        scheduled: samples that were put into a batch.
        selection_device: device of its running sum, once its first sample has been put into a batch.
        queued: `time.perf_counter()` when it came.
    """

    ticket: Ticket
    size: float
    scheduled: int = 0
    selection_device: torch.device | None = None
    queued: float = field(default_factory=time.perf_counter)

    @property
    def remaining(self) -> int:
        """Samples not yet put into a batch."""
        return 0 if self.ticket.over else self.ticket.task.samples - self.scheduled

    @property
    def selecting(self) -> bool:
        """Whether selection samples are still to be put into a batch."""
        return self.scheduled < self.ticket.task.n_select

    def available(self, device: torch.device) -> int:
        """Samples that a batch on a device may take now: none between the last selection sample and t."""
        if not self.selecting:
            return self.remaining if self.ticket.direction.done() else 0
        if self.ticket.over or self.selection_device not in (None, device):
            return 0
        return self.ticket.task.n_select - self.scheduled

    def schedule(self, count: int, device: torch.device) -> None:
        """Put the next samples into a batch for a device."""
        if self.selecting:
            self.selection_device = device
        self.scheduled += count


class Queue:
    """The waiting tickets.

    Args:
        batch_size: most samples in a batch.
        workers: threads that take batches. Where less waits than fills all their batches, it is spread over
            them.
        smallest_share: samples below which a batch is not made smaller for that; `batch_size` where every
            batch costs the same.
        typical_values: values (3 * H * W) of a canvas of typical size. A batch holds `batch_size` samples of
            them, fewer of larger ones, and at least one. None: all canvases have one size.
        begun: called with the seconds that a ticket has waited for its first sample.
        departed: called with the work that was not done, of a ticket whose client has left.
    """

    def __init__(
        self,
        batch_size: int,
        workers: int,
        smallest_share: int,
        *,
        typical_values: int | None = None,
        begun: Callable[[float], None],
        departed: Callable[[float], None],
    ) -> None:
        self.batch_size = batch_size
        self._typical_values = typical_values
        self._workers = workers
        self._smallest_share = min(smallest_share, batch_size)
        self._begun = begun
        self._departed = departed
        self._entries: list[_Entry] = []
        self._clocks: dict[Hashable, float] = {}
        self._now = 0.0
        self._turn = 0
        self._closed = False
        self._changed = threading.Condition()

    def __len__(self) -> int:
        """Samples that wait to be drawn."""
        with self._changed:
            return sum(entry.remaining for entry in self._entries)

    @property
    def work(self) -> float:
        """Work that waits."""
        with self._changed:
            return sum(entry.remaining * entry.size for entry in self._entries)

    def size(self, values: int) -> float:
        """Work of one sample of a canvas of so many values (3 * H * W)."""
        return 1.0 if self._typical_values is None else values / self._typical_values

    def put(self, ticket: Ticket) -> None:
        """Queue a ticket."""
        with self._changed:
            self._clocks.setdefault(ticket.request, self._now)
            self._entries.append(_Entry(ticket, self.size(ticket.task.x.numel())))
            self._changed.notify_all()

    def wake(self) -> None:
        """Look again: a ticket has got its t, or has ended."""
        with self._changed:
            self._changed.notify_all()

    def close(self) -> None:
        """End: `take` returns None from now on, also to those who wait in it."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def clear(self) -> list[Ticket]:
        """Forget all tickets, and return them."""
        with self._changed:
            entries, self._entries = self._entries, []
            self._clocks.clear()
            return [entry.ticket for entry in entries]

    def take(self, device: torch.device, *, wait: bool) -> Sequence[SampleRange] | None:
        """The next batch for a device, of canvases of one shape and layout.

        Returns:
            An empty batch where there is none and `wait` is false; None once the queue is closed.
        """
        with self._changed:
            while not self._closed:
                self._sweep()
                batch = self._pack(device)
                if batch or not wait:
                    return batch
                self._changed.wait()
            return None

    def _sweep(self) -> None:
        for entry in self._entries:
            entry.ticket.expire()
            if entry.ticket.result.cancelled():
                self._departed((entry.ticket.task.samples - entry.scheduled) * entry.size)
        self._entries = [entry for entry in self._entries if entry.remaining]
        waiting = {entry.ticket.request for entry in self._entries}
        self._clocks = {request: clock for request, clock in self._clocks.items() if request in waiting}

    def _pack(self, device: torch.device) -> list[SampleRange]:
        waiting = [entry for entry in self._entries if entry.available(device)]
        if not waiting:
            return []
        self._turn += 1
        everyone = waiting
        self._now = max(self._now, min(map(self._clock, everyone)))
        selecting = [each for each in waiting if each.selecting and self._clock(each) <= self._now + _LEAD]
        if self._turn % _FAIR_EVERY == 0:
            selecting = []
        first = min(selecting or waiting, key=self._clock)
        key = first.ticket.task.batch_key
        waiting = [entry for entry in waiting if entry.ticket.task.batch_key == key]
        selecting = [entry for entry in selecting if entry.ticket.task.batch_key == key]
        room = self._room(sum(entry.available(device) for entry in waiting), first.size)
        counts: dict[_Entry, int] = {}
        for entries in (selecting, waiting):
            room -= self._share(entries, room, device, counts)
        self._now = max(self._now, min(map(self._clock, everyone)))
        return [SampleRange(entry.ticket, entry.scheduled - count, count) for entry, count in counts.items()]

    def _clock(self, entry: _Entry) -> float:
        return self._clocks[entry.ticket.request]

    def _room(self, available: int, size: float) -> int:
        """Samples of the next batch, each of so much work."""
        most = min(self.batch_size, max(1, int(self.batch_size / size)))
        spread = -(-available // self._workers)
        return min(most, max(spread, self._smallest_share))

    def _share(
        self, entries: Sequence[_Entry], room: int, device: torch.device, counts: dict[_Entry, int]
    ) -> int:
        """Give up to `room` samples to entries, by their requests' clocks; returns how many."""
        given = 0
        heap = [(self._clock(entry), order, entry) for order, entry in enumerate(entries)]
        heapq.heapify(heap)
        while given < room and heap:
            clock, order, entry = heapq.heappop(heap)
            request = entry.ticket.request
            if clock < self._clocks[request]:  # another image of this request was served meanwhile
                heapq.heappush(heap, (self._clocks[request], order, entry))
                continue
            quantum = max(1, int(_QUANTUM / entry.size))
            count = min(quantum, room - given, entry.available(device))
            if count:
                if not entry.scheduled:
                    self._begun(time.perf_counter() - entry.queued)
                entry.schedule(count, device)
                given += count
                counts[entry] = counts.get(entry, 0) + count
                self._clocks[request] += count * entry.size
                heapq.heappush(heap, (self._clocks[request], order, entry))
        return given

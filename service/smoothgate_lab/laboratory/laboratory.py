"""Runs attacks, one at a time, on a thread of their own with one core, so that the service continues."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from smoothgate.bundled import DEMO
from smoothgate.errors import Overloaded
from smoothgate.psm.unit_encoder import UnitEncoder
from smoothgate.vision import load
from smoothgate_lab.chat_models.answerer import Answerer
from smoothgate_lab.laboratory.attack import AttackRequest, Step, craft

_RETRY_SECONDS = 10


class _Stopped(Exception):
    """Nobody watches the attack any more."""


@dataclass(frozen=True, slots=True)
class _Subject:
    """The attacker's demo model. It is on the CPU in float32, independent of the service's device."""

    encoder: UnitEncoder
    answerer: Answerer


class Laboratory:
    """The demo model, which the first attack loads, and the thread that attacks it."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "laboratory", initializer=lambda: torch.set_num_threads(1))
        self._subject: _Subject | None = None
        self._busy = False

    def require_free(self) -> None:
        """Check that an attack can begin.

        Raises:
            Overloaded: code `laboratory_busy`: another attack runs.
        """
        if self._busy:
            raise Overloaded(
                "Another attack is running. Only one runs at a time.",
                code="laboratory_busy",
                retry_after=_RETRY_SECONDS,
            )

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Reserve the laboratory for one attack. Raises as `require_free`."""
        self.require_free()
        self._busy = True
        try:
            yield
        finally:
            self._busy = False

    async def attack(
        self, psm: Path, x: Tensor, asked: AttackRequest, sigma: float
    ) -> AsyncGenerator[Step | Tensor]:
        """Yield each step when it is done, then the attacked picture (3, H, W). Closing it ends the attack.

        Args:
            psm: folder of the served PSM.
            x: picture (3, H, W) in [0, 1].
            asked: the attack.
            sigma: noise level of the defence.
        """
        loop = asyncio.get_running_loop()
        found: asyncio.Queue[Step | None] = asyncio.Queue()
        stopped = threading.Event()

        def report(step: Step) -> None:
            if stopped.is_set():
                raise _Stopped
            loop.call_soon_threadsafe(found.put_nowait, step)

        work = loop.run_in_executor(self._pool, self._craft, psm, x, asked, sigma, report)
        work.add_done_callback(lambda _: found.put_nowait(None))
        try:
            while (step := await found.get()) is not None:
                yield step
            yield await work
        finally:
            stopped.set()
            with suppress(_Stopped):
                await work

    def _craft(
        self, psm: Path, x: Tensor, asked: AttackRequest, sigma: float, report: Callable[[Step], None]
    ) -> Tensor:
        if self._subject is None:
            adapter = load(str(DEMO.model), device="cpu", dtype=torch.float32)
            self._subject = _Subject(UnitEncoder.load(adapter, psm), Answerer(DEMO.model))
        return craft(self._subject.encoder, self._subject.answerer, x, asked, sigma, report)

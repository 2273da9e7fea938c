"""Folders of pictures as streams of training batches, and their split into training and held-out pictures."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from smoothgate.errors import RequestError, SmoothgateError
from smoothgate.psm.picture_files import read_picture, stacked_canvases
from smoothgate.vision import DecodedImage, VisionAdapter
from smoothgate_lab.training_loop import seeded

_FEWEST = 20
_MOST_HELD_OUT = 500


class FolderPictures:
    """Canvases of pictures that are chosen at random. A batch always gets the same pictures.

    The next batch is decoded in advance.

    Args:
        adapter: makes the canvases.
        paths: pictures. One that cannot be read is replaced by the next that can be read.
        seed: seed of the choice.

    Attributes:
        unreadable: pictures that could not be read so far.
    """

    def __init__(self, adapter: VisionAdapter, paths: Sequence[Path], seed: int) -> None:
        self.unreadable: set[Path] = set()
        self._adapter = adapter
        self._paths = paths
        self._seed = seed
        self._pool = ThreadPoolExecutor(4, thread_name_prefix="pictures")
        self._ahead: dict[tuple[int, int], Future[Tensor]] = {}
        self._lock = threading.Lock()

    def __call__(self, batch: int, n: int) -> Tensor:
        """Canvases (n, 3, H, W) of a batch; see `stacked_canvases`.

        Raises:
            SmoothgateError: code `no_pictures`: no picture can be read.
        """
        waiting = self._ahead.pop((batch, n), None) or self._submit(batch, n)
        self._ahead = {(batch + 1, n): self._submit(batch + 1, n)}
        return waiting.result()

    def _submit(self, batch: int, n: int) -> Future[Tensor]:
        chosen = torch.randint(len(self._paths), (n,), generator=seeded(self._seed, batch)).tolist()
        pictures = [self._pool.submit(self._picture, index) for index in chosen]
        # It comes last in the pool's queue, so the tasks that it waits for have started.
        return self._pool.submit(
            lambda: stacked_canvases(self._adapter, [each.result() for each in pictures])
        )

    def _picture(self, index: int) -> DecodedImage:
        for path in (self._paths[(index + step) % len(self._paths)] for step in range(len(self._paths))):
            with self._lock:
                if path in self.unreadable:
                    continue
            try:
                return read_picture(path)
            except (OSError, RequestError):
                with self._lock:
                    self.unreadable.add(path)
        raise SmoothgateError("None of the pictures can be read.", code="no_pictures")


def split_pictures(paths: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Split pictures into training pictures and held-out pictures: every tenth, but at most 500.

    Raises:
        SmoothgateError: code `too_few_images`: there are fewer than twenty.
    """
    if len(paths) < _FEWEST:
        raise SmoothgateError(
            f"Training takes at least {_FEWEST} pictures, not {len(paths)}.", code="too_few_images"
        )
    every = max(10, len(paths) // _MOST_HELD_OUT)
    held_out = set(range(every - 1, len(paths), every))
    return [p for i, p in enumerate(paths) if i not in held_out], [paths[i] for i in sorted(held_out)]

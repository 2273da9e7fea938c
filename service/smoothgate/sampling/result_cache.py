"""Results of earlier requests about the same image, so that the second turn of a chat draws no samples.

A result is a statement about one canvas. A request about the same canvas on the same terms may have it again,
with its noise (design 1.4, point 7). A request about another image never gets it.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from dataclasses import dataclass

from torch import Tensor

from smoothgate.sampling.certifier import SamplingResult
from smoothgate.sampling.ticket import SamplingTask

# A selection score is a Python float in a list, a certification score is a float64.
_SELECTION_SCORE_BYTES, _SCORE_BYTES = 32, 8

#: Everything that determines a result, apart from the noise.
Key = tuple[object, ...]


@dataclass(frozen=True, slots=True)
class CachedResult:
    """The result of sampling one image, and the seed of its noise."""

    direction: Tensor
    result: SamplingResult
    seed: int

    @property
    def size(self) -> int:
        """Approximate size in bytes: the direction and the scores."""
        selection = _SELECTION_SCORE_BYTES * len(self.result.selection_scores)
        return self.direction.nbytes + selection + _SCORE_BYTES * self.result.rule.n


def key_of(encoder_digest: str, task: SamplingTask) -> Key:
    """The key of a task: encoder (weights, calibration, PSM), canvas, terms, numbers of samples."""
    x = task.x.contiguous().numpy()
    pixels = hashlib.sha256(x.tobytes()).digest()
    return (encoder_digest, task.x.shape, task.layout, pixels, task.terms, task.n_select, task.budget)


class ResultCache:
    """The most recently used results, up to a number of bytes.

    Args:
        max_bytes: of all results; 0: nothing is kept.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._results: OrderedDict[Key, CachedResult] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, key: Key) -> CachedResult | None:
        """The result of a key, which becomes the most recently used one."""
        with self._lock:
            if key in self._results:
                self._results.move_to_end(key)
            return self._results.get(key)

    def put(self, key: Key, result: CachedResult) -> None:
        """Keep a result. The least recently used results make room for it."""
        with self._lock:
            if key in self._results:
                self._bytes -= self._results.pop(key).size
            self._results[key] = result
            self._bytes += result.size
            while self._bytes > self.max_bytes:
                _, oldest = self._results.popitem(last=False)
                self._bytes -= oldest.size

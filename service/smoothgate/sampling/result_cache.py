"""Results of earlier requests about the same image, so that the second turn of a chat draws no samples.

A result is a statement about one canvas. A later request of the same client about the same canvas on the
same terms may have it again, with its noise (design 1.4, point 7). A request about another image never gets
it, and neither does another client: the time of its answer would tell it what others asked.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass

from torch import Tensor

from smoothgate.sampling.certifier import SamplingResult
from smoothgate.sampling.ticket import SamplingTask

# A selection score is a Python float in a list, a certification score is a float64.
_SELECTION_SCORE_BYTES, _SCORE_BYTES = 32, 8
# What the objects around them take, and those of each cosine that has an angular radius.
_OBJECTS_BYTES, _COSINE_BYTES = 6 * 1024, 2 * 1024

#: Whose result it is, and everything that determines it.
Key = tuple[object, ...]


@dataclass(frozen=True, slots=True)
class CachedResult:
    """The result of sampling one image."""

    direction: Tensor
    result: SamplingResult

    @property
    def size(self) -> int:
        """Approximate size in bytes: the direction, the scores, and the objects that hold them."""
        rule = self.result.rule
        scores = _SELECTION_SCORE_BYTES * len(self.result.selection_scores) + _SCORE_BYTES * rule.n
        objects = _OBJECTS_BYTES + _COSINE_BYTES * len(rule.terms.angular_cosines)
        return self.direction.nbytes + scores + objects


def key_of(scope: str, seed: int, task: SamplingTask) -> Key:
    """The key of a task.

    Args:
        scope: of the client. Clients of one scope share results.
        seed: of the noise. It stands for encoder and canvas (`smoothgate.sampling.noise_seeds`).
        task: gives terms and numbers of samples.
    """
    return (scope, seed, task.terms, task.n_select, task.budget)


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

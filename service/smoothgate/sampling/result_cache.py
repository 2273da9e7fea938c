"""Results of earlier requests about the same image, so that a chat's second turn costs nothing.

A result is a statement about one canvas; whoever asks about the same canvas on the same terms may have it
again, noise and all (design 1.4, point 7). Another image never gets it.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from dataclasses import dataclass

from torch import Tensor

from smoothgate.sampling.job import Evidence, Job

# The score itself, and its part in the evidence for three bounds.
_SCORE_BYTES = 32

#: Everything that determines a result but the noise.
Key = tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Result:
    """What sampling one image came to, and the seed of its noise."""

    direction: Tensor
    evidence: Evidence
    seed: int

    @property
    def size(self) -> int:
        """Bytes, near enough: of the direction and the scores, with what the stopping rule keeps of each."""
        scores = self.evidence.rule.n + len(self.evidence.selection_scores)
        return self.direction.numel() * self.direction.element_size() + _SCORE_BYTES * scores


def key_of(encoder_digest: str, job: Job) -> Key:
    """The key of a job: encoder (weights, calibration, PSM), canvas, terms, numbers of samples."""
    x = job.x.contiguous().numpy()
    pixels = hashlib.sha256(x.tobytes()).digest()
    return (encoder_digest, job.form, pixels, job.terms, job.n_select, job.budget)


class ResultCache:
    """The latest results, within a number of bytes.

    Args:
        max_bytes: of all results; 0: nothing is kept.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._results: OrderedDict[Key, Result] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, key: Key) -> Result | None:
        """The result of a key, which becomes the latest."""
        with self._lock:
            if key in self._results:
                self._results.move_to_end(key)
            return self._results.get(key)

    def put(self, key: Key, result: Result) -> None:
        """Keep a result; the ones that were not asked for the longest time make room."""
        with self._lock:
            if key in self._results:
                self._bytes -= self._results.pop(key).size
            self._results[key] = result
            self._bytes += result.size
            while self._bytes > self.max_bytes:
                _, oldest = self._results.popitem(last=False)
                self._bytes -= oldest.size

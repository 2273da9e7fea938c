"""One image in the sampler's hands: what queue and threads know of it, whatever becomes of its samples."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterator
from contextlib import contextmanager

from torch import Tensor

from smoothgate import metrics
from smoothgate.errors import SamplerFailed, SmoothgateError
from smoothgate.logs import get_logger
from smoothgate.vision import Layout

log = get_logger("sampler")


class BaseTicket(ABC):
    """An image whose noisy samples are drawn, numbered from 0.

    Args:
        x: the canvas (3, H, W) float32 on the CPU.
        layout: of the canvas.
        sigma: standard deviation of the noise.
        seed: of the noise.
        samples: most samples that are drawn.
        n_select: the first of them, which go before other work, and to one device. Answers wait for them.
        request: the same for all images of one request, which share its turns; None: a request of its own.
    """

    def __init__(
        self,
        x: Tensor,
        layout: Layout,
        *,
        sigma: float,
        seed: int,
        samples: int,
        n_select: int,
        request: Hashable = None,
    ) -> None:
        self.x = x
        self.layout = layout
        self.sigma = sigma
        self.seed = seed
        self.samples = samples
        self.n_select = n_select
        self.request = object() if request is None else request

    @property
    def batch_key(self) -> Hashable:
        """What all samples of one batch have in common: shape and layout of the canvas."""
        return self.x.shape, self.layout

    @property
    @abstractmethod
    def allowed(self) -> int:
        """How many samples may be drawn by now, those included that have been."""

    @property
    @abstractmethod
    def over(self) -> bool:
        """Whether nothing more is to be drawn."""

    @property
    @abstractmethod
    def departed(self) -> bool:
        """Whether its client has left."""

    @abstractmethod
    def collect(self, first: int, units: Tensor) -> tuple[int, Tensor] | None:
        """Work on the device: take in unit features (k, T * D) of the samples from `first` on.

        Nothing here waits for the device.

        Returns:
            The first sample and the values (k, ...) that are to come to the CPU; None: nothing yet.
        """

    @abstractmethod
    def account(self, first: int, values: Tensor) -> None:
        """Work on the CPU: take in what `collect` returned.

        Raises:
            SmoothgateError: the image cannot be sampled.
        """

    @abstractmethod
    def expire(self) -> None:
        """End if the time is up. Does not wait."""

    @abstractmethod
    def fail(self, error: Exception) -> None:
        """End with an error, as far as it has not ended."""

    @contextmanager
    def failing_alone(self, reason: str) -> Iterator[None]:
        """Whatever goes wrong in the block ends this ticket and no other.

        Args:
            reason: under which a failure is counted that is no answer to the client.
        """
        try:
            yield
        except SmoothgateError as error:
            self.fail(error)
        except Exception:
            metrics.FAILED_IMAGES.labels(reason).inc()
            log.exception("an image failed", reason=reason)
            self.fail(SamplerFailed("The sampler failed; the request was not completed."))

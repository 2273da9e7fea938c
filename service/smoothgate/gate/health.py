"""Whether the service should be sent requests, and whether its process should go on."""

from __future__ import annotations

from smoothgate.gate.canary import Canary
from smoothgate.gate.commitment_log import CommitmentLog
from smoothgate.gate.image_decoding import ImageDecoder
from smoothgate.gate.in_flight import InFlight
from smoothgate.gate.readiness import Readiness


class Health:
    """Sums up what a balancer has to know.

    Args:
        readiness: of encoder, sampler and a vLLM of its own.
        decoder: of pictures.
        in_flight: knows whether the service is shutting down.
        canary: None: none is sent.
        log: of commitments; None: there is none.
    """

    def __init__(
        self,
        readiness: Readiness,
        decoder: ImageDecoder,
        in_flight: InFlight,
        canary: Canary | None,
        log: CommitmentLog | None,
    ) -> None:
        self._readiness = readiness
        self._decoder = decoder
        self._in_flight = in_flight
        self._canary = canary
        self._log = log

    def beyond_repair(self) -> dict[str, str]:
        """What only a new process can help, by part; empty where there is nothing of that kind."""
        return self._readiness.beyond_repair()

    def problems(self) -> dict[str, str]:
        """What keeps the service from being sent requests, by part; empty when it is ready."""
        problems = self._readiness.problems() | self._decoder.problems()
        if self._log is not None:
            problems |= self._log.problems()
        if self._in_flight.draining:
            problems["service"] = "draining"
        if self._canary is not None and self._canary.problem is not None:
            problems["canary"] = self._canary.problem
        return problems

"""`/v1/log`: what shows that a certificate's noise was fixed before it was drawn (docs/certificates.md)."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from smoothgate.errors import MalformedRequest, NotFound
from smoothgate.gate.commitment_log import CommitmentLog
from smoothgate.gate.issuing import Issuer
from smoothgate.http import openapi_examples
from smoothgate.off_loop import off_loop
from smoothgate.schemas import LogCheckpoint, LogProof

_ERRORS = {code: openapi_examples.ERRORS[code] for code in (400, 503)} | openapi_examples.NOT_FOUND
_Number = Annotated[int | None, Query(ge=0, le=2**53)]


def log_router(commitments: CommitmentLog | None, issuer: Issuer) -> APIRouter:
    """The routes.

    Args:
        commitments: None: there is no log, and they answer 404.
        issuer: signs checkpoints.
    """
    router = APIRouter(tags=["Operation"])

    @router.get("/v1/log/checkpoint", responses=_ERRORS)
    async def checkpoint() -> LogCheckpoint:
        """The state of the log, signed as certificates are: identifier, size, root and time."""
        log_id, size, root = await off_loop(_present(commitments).head)
        return LogCheckpoint(checkpoint=issuer.checkpoint(log_id, size, root))

    @router.get("/v1/log/proof", responses=_ERRORS, response_model_exclude_none=True)
    async def proof(
        number: _Number = None,
        leaf: Annotated[str | None, Query(pattern="^[0-9a-f]{64}$")] = None,
        first: _Number = None,
        size: _Number = None,
    ) -> LogProof:
        """Proof that an entry, named by its `number` or its `leaf` hash, is in the tree of the first `size`
        entries; or that this tree begins with the one of the first `first` entries (RFC 9162).
        """
        log = _present(commitments)
        if sum(each is not None for each in (number, leaf, first)) != 1:
            raise MalformedRequest("Name one of number, leaf and first.", param="number")
        _, present, _ = await off_loop(log.head)
        if size is None:
            size = present
        if size > present:
            raise NotFound(f"The log has {present} entries.", param="size", code="not_in_log")
        if first is not None:
            if not 0 < first <= size:
                raise NotFound(f"first is not from 1 to {size}.", param="first", code="not_in_log")
            path = await off_loop(log.consistency, first, size)
            return LogProof(first=first, size=size, path=[each.hex() for each in path])
        if leaf is not None:
            number = await off_loop(log.find, bytes.fromhex(leaf))
        if number is None or number >= size:
            raise NotFound(
                f"No such entry is among the first {size}.",
                param="number" if leaf is None else "leaf",
                code="not_in_log",
            )
        found, path = await off_loop(log.inclusion, number, size)
        return LogProof(number=number, leaf=found.hex(), size=size, path=[each.hex() for each in path])

    return router


def _present(commitments: CommitmentLog | None) -> CommitmentLog:
    if commitments is None:
        raise NotFound("This service keeps no log of commitments.", code="no_log")
    return commitments

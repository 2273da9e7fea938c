"""What every route knows of a request: its id, its account, and whether its client is still there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request

from smoothgate.errors import SmoothgateError
from smoothgate.gate.accounts import Account
from smoothgate.gate.answering import Accepted, Event

T = TypeVar("T")


def request_id(request: Request) -> str:
    """The id that the client sent, or a new one."""
    identifier: str = request.state.request_id
    return identifier


def account_of(request: Request) -> Account | None:
    """The client, where there are accounts."""
    account: Account | None = request.state.account
    return account


async def accepted(request: Request, events: AsyncGenerator[Event]) -> Accepted:
    """The first event of a stream, so that whatever is refused before it still has a status of its own.

    Raises: as `while_connected`.
    """

    async def first() -> Accepted:
        event = await anext(events)
        assert isinstance(event, Accepted)  # noqa: S101
        return event

    return await while_connected(request, first())


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled when the client leaves. The body must have been read before.

    Raises:
        ClientDisconnect: the client has left.
        SmoothgateError: whatever `work` raises.
    """
    task = asyncio.create_task(work)
    leaving = asyncio.create_task(_left(request))
    try:
        await asyncio.wait((task, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        task.cancel()
        leaving.cancel()
        with suppress(asyncio.CancelledError, SmoothgateError):
            await task


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass

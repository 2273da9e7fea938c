"""What every route knows of a request: its id, its outcome, and whether its client is still there."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request

from smoothgate import metrics
from smoothgate.errors import SmoothgateError
from smoothgate.gate.accounts import Account
from smoothgate.gate.runtime import Runtime

T = TypeVar("T")


def runtime_of(request: Request) -> Runtime:
    """The runtime of the app that serves a request."""
    runtime: Runtime = request.app.state.runtime
    return runtime


def request_id(request: Request) -> str:
    """The client's id, or the one that was made for it."""
    identifier: str = request.state.request_id
    return identifier


def account_of(request: Request) -> Account | None:
    """The client, where there are accounts."""
    account: Account | None = request.state.account
    return account


@asynccontextmanager
async def measured(route: str) -> AsyncIterator[None]:
    """Count the time of an answer by how it ended: `ok`, an error's code, or `cancelled`."""
    started = time.perf_counter()
    outcome = "ok"
    try:
        yield
    except SmoothgateError as error:
        outcome = error.code
        raise
    except (asyncio.CancelledError, ClientDisconnect, GeneratorExit):
        outcome = "cancelled"
        raise
    except BaseException:
        outcome = "internal_error"
        raise
    finally:
        metrics.REQUEST_SECONDS.labels(route, outcome).observe(time.perf_counter() - started)


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, or ClientDisconnect (and `work` cancelled) when the client leaves first.

    The request's body must have been read.
    """
    task = asyncio.create_task(work)
    leaving = asyncio.create_task(_left(request))
    try:
        await asyncio.wait((task, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        for each in (task, leaving):
            each.cancel()
        with suppress(asyncio.CancelledError, SmoothgateError):
            await task


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass

"""The service on the bundled demo model in this process, with a vLLM of its own, behind a port."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import uvicorn
from fastapi import FastAPI

from smoothgate.gate.build import build
from smoothgate.gate.service import Service
from smoothgate.http.app import create_app
from smoothgate.settings import Settings


@asynccontextmanager
async def serving() -> AsyncIterator[tuple[Service, httpx.AsyncClient]]:
    """The service, ready, and a client of it."""
    service, app = await asyncio.to_thread(_built)
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False))
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        async with httpx.AsyncClient(base_url=url, timeout=120) as gate:
            while service.health.problems() or not server.started:
                await asyncio.sleep(0.2)
                if serving.done():
                    await serving
            yield service, gate
    finally:
        server.should_exit = True
        await serving


def _built() -> tuple[Service, FastAPI]:
    """The service and its application; reads files."""
    settings = Settings(_env_file=None)
    service = build(settings)
    return service, create_app(service, settings)

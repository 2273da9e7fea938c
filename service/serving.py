"""`smoothgate serve`: uvicorn around the app, with progress while the engine loads and a command to try when
it answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import uvicorn
from rich.console import Console

from service.api.app import create_app
from service.api.examples import SAMPLE
from service.api.runtime import Runtime
from service.demo import bundled
from service.settings import Settings

_POLL_SECONDS = 0.5


def serve(settings: Settings, console: Console) -> bool:
    """Run until SIGINT or SIGTERM. Returns whether the service ever started.

    Raises:
        SmoothgateError: why it could not start, where that is known.
    """
    app = create_app(settings)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=round(settings.shutdown_timeout_seconds),
    )
    server = uvicorn.Server(config)

    async def run() -> None:
        announcing = asyncio.create_task(_announce(app.state.runtime, lambda: server.started, console))
        try:
            await server.serve()
        finally:
            announcing.cancel()

    try:
        asyncio.run(run())
    except SystemExit:
        # uvicorn's way of saying that the start failed; the reason is the runtime's.
        if app.state.runtime.failure is not None:
            raise app.state.runtime.failure from None
        raise
    if app.state.runtime.failure is not None:
        raise app.state.runtime.failure
    return server.started


async def _announce(runtime: Runtime, listening: Callable[[], bool], console: Console) -> None:
    """Say what is being waited for, then what to try."""
    interactive = console.is_terminal
    with console.status("Starting") as status:
        while runtime.problems() or not listening():
            engine = runtime.engine.status
            status.update(
                f"Loading {runtime.model_name}: vLLM {engine.state.value} for {engine.elapsed:.0f} s"
            )
            if not interactive and round(engine.elapsed / _POLL_SECONDS) % 20 == 0:
                console.print(
                    f"Loading {runtime.model_name}: vLLM {engine.state.value} for {engine.elapsed:.0f} s"
                )
            await asyncio.sleep(_POLL_SECONDS)
    url = f"http://{runtime.settings.host}:{runtime.settings.port}"
    sample = _shown(bundled("samples") / SAMPLE)
    console.print(
        f"\n[bold]{runtime.model_name}[/bold] answers at [bold]{url}[/bold]  (documentation: {url}/docs)\n",
        soft_wrap=True,
    )
    console.print("Try it:\n")
    console.print(
        f"  curl {url}/v1/chat -F image=@{sample} -F 'message=What digit is shown?'\n", soft_wrap=True
    )


def _shown(path: Path) -> Path:
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path

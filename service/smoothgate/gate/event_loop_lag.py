"""How late the event loop is: while it is, no request goes on, not even a probe."""

from __future__ import annotations

import asyncio

from smoothgate import metrics

_PAUSE_SECONDS = 0.05


async def measure_event_loop_lag() -> None:
    """Count, until cancelled, by how much each short pause is longer than it should be."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + _PAUSE_SECONDS
        await asyncio.sleep(_PAUSE_SECONDS)
        metrics.EVENT_LOOP_LAG_SECONDS.observe(max(0.0, loop.time() - due))

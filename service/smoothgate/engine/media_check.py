"""Whether a vLLM refuses what must never reach it around the smoothing: pictures and video.

Only vLLM's arguments make it refuse them, and nothing else would show that they are missing.
"""

from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from PIL import Image

from smoothgate import metrics
from smoothgate.engine.engine_client import EngineClient
from smoothgate.errors import EngineTimedOut, RequestError
from smoothgate.logs import get_logger

#: The versions that the tests ran with.
TESTED_VERSIONS = ("0.32.",)

_SECONDS = 30.0
_SIDE = 32
# The request is at fault. Other statuses say nothing of media: no key, no such model, too large.
_REFUSED = (400, 422)

Json = dict[str, Any]

log = get_logger("engine")


def media_part(kind: str) -> Json:
    """A medium that is refused for nothing but its kind; a video is JPEGs with commas in between."""
    file = io.BytesIO()
    Image.new("RGB", (_SIDE, _SIDE), "white").save(file, "JPEG")
    frame = base64.b64encode(file.getvalue()).decode()
    return {"type": f"{kind}_url", f"{kind}_url": {"url": f"data:{kind}/jpeg;base64,{frame}"}}


@dataclass(frozen=True, slots=True)
class MediaCheck:
    """What is asked of a vLLM before it gets its first request.

    Attributes:
        model: the name that it must serve.
        refused: the kinds of media that it must refuse.
    """

    model: str
    refused: Collection[str] = ("image", "video")

    async def problem(self, client: EngineClient) -> str | None:
        """What is wrong with a vLLM, or None.

        Raises:
            SmoothgateError: it cannot be asked now.
        """
        try:
            async with asyncio.timeout(_SECONDS):
                served = [card.get("id") for card in await client.models()]
                if self.model not in served:
                    return f"serves {', '.join(map(str, served)) or 'nothing'} instead of {self.model}"
                version = await client.version()
                metrics.ENGINE_INFO.clear()
                metrics.ENGINE_INFO.labels(version or "unknown").set(1)
                if not (version or "").startswith(TESTED_VERSIONS):
                    log.warning("the tests ran with another version of vLLM", version=version)
                for kind in self.refused:
                    if not await self._refuses(client, kind):
                        return f"takes {kind}s: start it with --limit-mm-per-prompt"
        except TimeoutError as error:
            raise EngineTimedOut("The engine did not answer in time.") from error
        return None

    async def _refuses(self, client: EngineClient, kind: str) -> bool:
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": [media_part(kind)]}],
            "max_tokens": 1,
        }
        try:
            await client.probe(body)
        except RequestError as error:
            if error.status in _REFUSED:
                return True
            raise
        return False

"""Pictures of any size, and what vLLM and the service take them as."""

import base64
import io
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

Json = dict[str, Any]


def picture(height: int, width: int, seed: int) -> npt.NDArray[np.uint8]:
    """Blurred patches of random colours: (H, W, 3)."""
    rng = np.random.default_rng(seed)
    patches = Image.fromarray(rng.integers(0, 256, (7, 9, 3), dtype=np.uint8))
    return np.asarray(patches.resize((width, height), Image.Resampling.BICUBIC))


def image_part(height: int, width: int, seed: int) -> Json:
    """A picture in an OpenAI message."""
    buffer = io.BytesIO()
    Image.fromarray(picture(height, width, seed)).save(buffer, "PNG")
    url = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    return {"type": "image_url", "image_url": {"url": url}}

"""A streamed answer. The chunk that ends it carries the certificates."""

import base64
import sys
from pathlib import Path
from typing import Any

from openai import OpenAI

PICTURE = Path(__file__).parent.parent / "service" / "smoothgate" / "demo" / "samples" / "seven.png"


def main(url: str) -> None:
    """Ask, print the answer as it comes in, and then what is certified."""
    data = base64.b64encode(PICTURE.read_bytes()).decode()
    content: Any = [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}},
        {"type": "text", "text": "What digit is shown?"},
    ]
    with OpenAI(base_url=f"{url}/v1", api_key="unused") as client:
        chunks = client.chat.completions.create(
            model=client.models.list().data[0].id,
            messages=[{"role": "user", "content": content}],
            temperature=0,
            stream=True,
        )
        certificates = []
        for chunk in chunks:
            for choice in chunk.choices:
                print(choice.delta.content or "", end="", flush=True)
            certificates += (chunk.model_extra or {}).get("certificates") or []
    print()
    for certificate in certificates:
        radius = certificate["radius"]
        print(
            f"{certificate['outcome']}: cosine {radius['cosine_threshold']} within l2 {radius['value']:.3f}"
        )


if __name__ == "__main__":
    main(*(sys.argv[1:] or ["http://127.0.0.1:8000"]))

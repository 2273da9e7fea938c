"""Two pictures through the OpenAI SDK. Sampling ends once the bound that is asked for is certified."""

import base64
import sys
from pathlib import Path
from typing import Any

from openai import OpenAI

SAMPLES = Path(__file__).parent.parent / "service" / "smoothgate" / "demo" / "samples"


def picture(path: Path) -> Any:
    """A picture as a part of a message."""
    data = base64.b64encode(path.read_bytes()).decode()
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}


def main(url: str) -> None:
    """Ask, and print the answer and what is certified."""
    question: Any = {"type": "text", "text": "What is the sum of the digits?"}
    with OpenAI(base_url=f"{url}/v1", api_key="unused") as client:
        answer = client.chat.completions.create(
            model=client.models.list().data[0].id,
            messages=[
                {
                    "role": "user",
                    "content": [picture(SAMPLES / "three.png"), picture(SAMPLES / "seven.png"), question],
                }
            ],
            temperature=0,
            extra_body={"smoothing": {"target": {"cosine": 0.8, "eps": 0.25}}},
        )
    print(answer.choices[0].message.content)
    for certificate in (answer.model_extra or {})["certificates"]:
        print(certificate["outcome"], "after", certificate["noise"]["n_certify"], "samples")


if __name__ == "__main__":
    main(*(sys.argv[1:] or ["http://127.0.0.1:8000"]))

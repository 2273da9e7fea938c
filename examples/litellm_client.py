"""LiteLLM keeps fields that it does not know: the certificate is on the answer."""

import base64
import sys
from pathlib import Path

import litellm

PICTURE = Path(__file__).parent.parent / "service" / "smoothgate" / "demo" / "samples" / "seven.png"


def main(url: str) -> None:
    """Ask, and print the answer and what is certified."""
    data = base64.b64encode(PICTURE.read_bytes()).decode()
    content = [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}},
        {"type": "text", "text": "What digit is shown?"},
    ]
    answer = litellm.completion(
        model="openai/smoothgate-demo",
        api_base=f"{url}/v1",
        api_key="unused",
        messages=[{"role": "user", "content": content}],
        temperature=0,
        extra_body={"smoothing": {"certify": "answer", "target": {"eps": 0.25}}},
    )
    print(answer.choices[0].message.content)
    print(answer.answer_certificate["outcome"], "within l2", answer.answer_certificate["radius"])


if __name__ == "__main__":
    main(*(sys.argv[1:] or ["http://127.0.0.1:8000"]))

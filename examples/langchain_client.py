"""LangChain drops fields that it does not know. It keeps headers if asked to; they have the outcome."""

import base64
import sys
from pathlib import Path

from langchain_openai import ChatOpenAI
from pydantic import SecretStr

PICTURE = Path(__file__).parent.parent / "service" / "smoothgate" / "demo" / "samples" / "seven.png"


def main(url: str) -> None:
    """Ask, and print the answer and the headers."""
    data = base64.b64encode(PICTURE.read_bytes()).decode()
    chat = ChatOpenAI(
        model="smoothgate-demo",
        base_url=f"{url}/v1",
        api_key=SecretStr("unused"),
        temperature=0,
        include_response_headers=True,
        extra_body={"smoothing": {"certify": "answer", "target": {"eps": 0.25}}},
    )
    content = [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}},
        {"type": "text", "text": "What digit is shown?"},
    ]
    answer = chat.invoke([{"role": "user", "content": content}])
    headers = answer.response_metadata["headers"]
    print(answer.content)
    print(headers["smoothgate-outcome"], "within l2", headers["smoothgate-radius"])


if __name__ == "__main__":
    main(*(sys.argv[1:] or ["http://127.0.0.1:8000"]))

"""The answer itself certified. With `enforce`, one that misses or cannot reach the radius is refused."""

import sys
from pathlib import Path

from smoothgate import Client
from smoothgate.client import ServiceError
from smoothgate.schemas import SmoothingOptions

PICTURE = Path(__file__).parent.parent / "service" / "smoothgate" / "demo" / "samples" / "seven.png"


def main(url: str) -> None:
    """Ask twice, and print what holds and what does not."""
    with Client(url) as client:
        near = SmoothingOptions.model_validate({"certify": "answer", "target": {"eps": 0.25}})
        answer = client.chat("What digit is shown?", [PICTURE], smoothing=near)
        print(answer.answer)
        if answer.answer_certificate is not None:
            print(answer.answer_certificate.outcome, "within l2", answer.answer_certificate.radius)

        far = SmoothingOptions.model_validate(
            {"certify": "answer", "target": {"eps": 1.2}, "n_certify": 64, "policy": "enforce"}
        )
        try:
            client.chat("What digit is shown?", [PICTURE], smoothing=far)
        except ServiceError as error:
            print("refused:", error.message)


if __name__ == "__main__":
    main(*(sys.argv[1:] or ["http://127.0.0.1:8000"]))

"""Whether answers survive the smoothing: each picture of a folder is asked about without it and with it.

The service must allow the first: SMOOTHGATE_ALLOW_SMOOTHING_OFF=true.
"""

import sys
from pathlib import Path

from smoothgate import Client
from smoothgate.schemas import SmoothingOptions

SAMPLES = Path(__file__).parent.parent / "service" / "smoothgate" / "demo" / "samples"
OFF = SmoothingOptions(mode="off")
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".gif"}


def main(url: str, folder: str = str(SAMPLES), question: str = "What digit is shown?") -> None:
    """Print both answers of each picture, and the share of equal ones."""
    same = asked = 0
    with Client(url, timeout=1800) as client:
        for path in sorted(Path(folder).iterdir()):
            if path.suffix.lower() in SUFFIXES:
                bare = client.chat(question, [path], smoothing=OFF, temperature=0).answer.strip()
                smoothed = client.chat(question, [path], temperature=0).answer.strip()
                asked += 1
                same += bare == smoothed
                print(f"{path.name}: {bare!r} {'==' if bare == smoothed else '!='} {smoothed!r}")
    print(f"{same} of {asked} answers are the same")


if __name__ == "__main__":
    main(*(sys.argv[1:] or ["http://127.0.0.1:8000"]))

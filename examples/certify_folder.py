"""One line of JSON for each picture of a folder: outcome and radius. No language model is asked."""

import json
import sys
from pathlib import Path

from smoothgate import Client

SAMPLES = Path(__file__).parent.parent / "service" / "smoothgate" / "demo" / "samples"


def main(url: str, folder: str = str(SAMPLES)) -> None:
    """Certify the PNG files of a folder one by one."""
    with Client(url) as client:
        for path in sorted(Path(folder).glob("*.png")):
            (certificate,) = client.certify([path]).certificates
            row = {
                "picture": path.name,
                "outcome": certificate.outcome,
                "cosine": certificate.radius.cosine_threshold,
                "radius": certificate.radius.value,
                "upload_radius": certificate.radius.upload,
                "jws": certificate.jws,
            }
            print(json.dumps(row))


if __name__ == "__main__":
    main(*(sys.argv[1:] or ["http://127.0.0.1:8000"]))

"""A saved answer checked with a saved key set. Nothing is loaded, and nothing is asked.

curl http://127.0.0.1:8000/.well-known/jwks.json > keys.json
python examples/verify_offline.py answer.json keys.json
"""

import json
import sys
from pathlib import Path

from smoothgate.verification import answered, check, read


def main(answer: str, keys: str) -> None:
    """Print every check, and end with status 1 where one fails."""
    text = Path(answer).read_text()
    key_set = json.loads(Path(keys).read_text())
    passed = True
    for jws, shown in read(text):
        for result in check(jws, shown, key_set, texts=answered(text)):
            print("ok  " if result.passed else "FAIL", f"{result.name}: {result.detail}")
            passed &= result.passed
    if not passed:
        sys.exit(1)


if __name__ == "__main__":
    main(*(sys.argv[1:] or ["answer.json", "keys.json"]))

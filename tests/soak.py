"""`python -m tests.soak`: `smoothgate bench soak` on a model whose canvases have free sizes."""

import os
import sys
import tempfile
from pathlib import Path

from smoothgate.cli.main import app
from tests.families import tiny_model

with tempfile.TemporaryDirectory(prefix="smoothgate-soak-") as folder:
    # Small, so that it is full after the first minutes: results that fill it are no growth.
    os.environ["SMOOTHGATE_CACHE_MIB"] = "1"
    os.environ |= tiny_model.free_sizes(Path(folder))
    app(["bench", "soak", *sys.argv[1:]])

"""`python -m tests.soak`: `smoothgate bench soak` on a model whose canvases have free sizes."""

import os
import tempfile
from pathlib import Path

import typer

from smoothgate_lab.cli.bench_commands import bench_soak
from tests.families import tiny_model

with tempfile.TemporaryDirectory(prefix="smoothgate-soak-") as folder:
    os.environ |= tiny_model.free_sizes(Path(folder))
    typer.run(bench_soak)

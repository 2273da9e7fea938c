"""vLLM's own load client, `vllm bench serve`, against the service, with pictures."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from smoothgate.bundled import DEMO
from smoothgate.engine.vllm_command import CHILD_SITE
from smoothgate.http import sse
from tests.conformance.conftest import EXTRA
from tests.whole_service import Gate

pytestmark = pytest.mark.engine

# The command itself asks for a package called `vllm`, which a build of another name does not have.
BENCH_SERVE = """
from argparse import ArgumentParser
from vllm.benchmarks.serve import add_cli_args, main
parser = ArgumentParser()
add_cli_args(parser)
main(parser.parse_args())
"""


@pytest.mark.long
def test_bench_serve_counts_right_though_streams_have_comments(
    gate: Gate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sse, "SILENCE_SECONDS", 0.02)
    options = {
        "base-url": gate.url,
        "backend": "openai-chat",
        "endpoint": "/v1/chat/completions",
        "tokenizer": DEMO.model,
        "dataset-name": "random-mm",
        "num-prompts": 3,
        "random-input-len": 16,
        "random-output-len": 8,
        "random-mm-limit-mm-per-prompt": json.dumps({"image": 2}),
        "random-mm-base-items-per-request": 1,
        "random-mm-bucket-config": {(48, 48, 1): 1.0},
        "extra-body": json.dumps(EXTRA),
        "result-dir": tmp_path,
        "result-filename": "result.json",
    }
    arguments = ["--ignore-eos", *(f"--{name}={value}" for name, value in options.items())]
    smoothed = gate.metric("smoothgate_samples_per_image_count")
    ended = subprocess.run(
        [sys.executable, "-P", "-c", BENCH_SERVE, *arguments, "--save-result", "--save-detailed"],
        env=os.environ | {"PYTHONPATH": str(CHILD_SITE), "HF_HUB_OFFLINE": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert ended.returncode == 0, ended.stderr
    result = json.loads((tmp_path / "result.json").read_text())
    assert (result["completed"], result["failed"]) == (3, 0), result["errors"]
    assert result["output_lens"] == [8, 8, 8]
    assert gate.metric("smoothgate_samples_per_image_count") - smoothed == 3

"""`python -m smoothgate_lab.benchmarks.memory N`: draw N samples and print the peak of resident memory."""

from __future__ import annotations

import resource
import sys

import torch

from smoothgate.bundled import DEMO
from smoothgate.psm.unit_encoder import UnitEncoder
from smoothgate.vision import load
from smoothgate_lab.benchmarks.sampler_bench import QUICK, Bench
from smoothgate_lab.demo.digit_scenes import DigitScenes


def main(n: int) -> int:
    """Draw n samples. Returns the peak of resident memory of this process, in bytes."""
    adapter = load(str(DEMO.model), device="cpu", dtype=torch.float32)
    encoder = UnitEncoder.load(adapter, DEMO.psm)
    bench = Bench(encoder, DigitScenes(encoder.adapter, 1, 0, 7).canvases, QUICK)
    sampler = bench.sampler()
    ticket = bench.ticket(0, n)
    sampler.submit(ticket)
    ticket.result.result().rule.statement()
    sampler.close()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    print(main(int(sys.argv[1])))

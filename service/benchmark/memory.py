"""`python -m service.benchmark.memory N`: draw N samples, print the peak of resident bytes."""

from __future__ import annotations

import resource
import sys

import torch

from service.benchmark.sampler import QUICK, Bench
from service.demo import bundled
from service.demo.task import DigitScenes
from service.psm.encoder import UnitEncoder
from service.vision import load


def main(n: int) -> int:
    """Peak resident bytes of this process."""
    adapter = load(str(bundled("model")), device="cpu", dtype=torch.float32)
    encoder = UnitEncoder.load(adapter, bundled("psm"))
    bench = Bench(encoder, DigitScenes(encoder.adapter, 1, 0, 7).canvases, QUICK)
    sampler = bench.sampler()
    job = bench.job(0, n)
    sampler.submit(job)
    job.evidence.result().rule.statement()
    sampler.close()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    print(main(int(sys.argv[1])))

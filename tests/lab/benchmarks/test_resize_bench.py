import torch

from smoothgate.bundled import DEMO
from smoothgate.vision import load
from smoothgate_lab.benchmarks import resize_bench


def test_the_two_resizes_differ_by_rounding_only() -> None:
    rows = resize_bench.run(load(str(DEMO.model), device="cpu", dtype=torch.float32))
    assert len(rows) == len(resize_bench.KINDS) * len(resize_bench.SIZES)
    for row in rows:
        if (row["height"], row["width"]) == (48, 48):
            assert row["max"] < 1e-3
        assert row["mean"] < 0.6
        assert row["cosine"] > 0.99

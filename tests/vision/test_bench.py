import torch

from service.demo import bundled
from service.vision import bench, load


def test_the_two_resizes_differ_by_rounding_only() -> None:
    rows = bench.run(load(str(bundled("model")), device="cpu", dtype=torch.float32))
    assert len(rows) == len(bench.KINDS) * len(bench.SIZES)
    for row in rows:
        if (row["height"], row["width"]) == (48, 48):
            assert row["max"] < 1e-3
        assert row["mean"] < 0.6
        assert row["cosine"] > 0.99

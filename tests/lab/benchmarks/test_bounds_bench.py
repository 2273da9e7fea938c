import json

from smoothgate_lab.benchmarks.bounds_bench import REQUIRED, run


def test_the_bounds_are_as_tight_as_they_should_be() -> None:
    rows = run(repeats=2)
    required = [row for row in rows if row["required"] is not None]
    assert len(required) == len(REQUIRED)
    assert all(row["met"] for row in required), required
    json.dumps(rows, allow_nan=False)


def test_no_method_exceeds_its_own_limit() -> None:
    rows = run(repeats=1, seed=7)
    values = {
        (row["method"], row["n"], row["eps"]): row["value"] for row in rows if row["quantity"] == "fcsb"
    }
    for (method, n, eps), value in values.items():
        if n is None:
            continue
        limit = "layer_cake_limit" if method in ("served", "inner_product", "thresholds") else "paper_limit"
        assert value <= values[limit, None, eps], (method, n, eps)

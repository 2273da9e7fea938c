import numpy as np
import pytest

from smoothgate.certify.evidence import Evidence
from smoothgate.certify.layer_cake import tune


def test_updates_may_be_cut_anywhere() -> None:
    rng = np.random.default_rng(0)
    selection, scores = rng.beta(14, 6, 64), rng.beta(14, 6, 300)
    whole, pieces = Evidence(tune(selection, 300, 0.01)), Evidence(tune(selection, 300, 0.01))
    whole.update(scores)
    for start in range(0, 300, 7):
        pieces.update(scores[start : start + 7])
    assert whole.moments.lowers.tolist() == pieces.moments.lowers.tolist()


def test_before_the_first_score_nothing_is_known() -> None:
    evidence = Evidence(tune([0.9], 10, 0.01))
    assert evidence.moments.lowers.tolist() == [0.0, 0.0, 0.0]
    assert evidence.moments.expected_score(0.5) == 0.0
    assert evidence.moments_if_perfect(100).score_lower > 0.9


def test_a_bad_score_leaves_no_trace() -> None:
    evidence = Evidence(tune([0.9], 10, 0.01))
    with pytest.raises(ValueError, match="score"):
        evidence.update([0.5, 1.5])
    assert evidence.moments.score_lower == 0.0

import math

import numpy as np
import pytest

from smoothgate.certify.scores import check_scores


def test_scores_become_a_float64_vector() -> None:
    checked = check_scores([0, 1])
    assert checked.dtype == np.float64
    assert checked.tolist() == [0.0, 1.0]


@pytest.mark.parametrize("bad", [[math.nan], [0.5, math.nan], [1.0 + 1e-9], [-1e-9], [math.inf], [], [[0.5]]])
def test_invalid_scores_are_refused(bad: list[float] | list[list[float]]) -> None:
    with pytest.raises(ValueError, match="score"):
        check_scores(bad)

"""The headers know every outcome that a certificate can have."""

from typing import get_args

from smoothgate.certify.statement import Outcome
from smoothgate.http import outcome_headers


def test_every_outcome_has_its_rank() -> None:
    assert set(outcome_headers._OUTCOMES) == set(get_args(Outcome))

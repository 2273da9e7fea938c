"""Certificates of version 1 keep verifying, down to the noise."""

import pytest

from smoothgate.psm.unit_encoder import UnitEncoder
from smoothgate.verification import check
from tests.certify.version_1_vectors import PICTURES, encoder, keys, vector


@pytest.fixture(scope="module")
def then(tmp_path_factory: pytest.TempPathFactory) -> UnitEncoder:
    return encoder(tmp_path_factory.mktemp("then"))


@pytest.mark.parametrize("name", PICTURES)
def test_a_certificate_of_version_1_verifies(name: str, then: UnitEncoder) -> None:
    given = vector(name)
    checks = list(check(given.jws, given.shown, keys(), given.picture, lambda limit: then))
    assert len(checks) > 6
    assert [each for each in checks if not each.passed] == []

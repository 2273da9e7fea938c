import hashlib
import hmac

import pytest
import torch

from smoothgate.sampling.noise_seeds import NoiseSeeds, canvas_digest

SECRET = b"s" * 32
ENCODER = hashlib.sha256(b"encoder").hexdigest()
CANVAS = hashlib.sha256(b"canvas").digest()


def test_a_seed_is_the_documented_function_of_secret_picture_and_encoder() -> None:
    message = b"smoothgate noise seed v1\0" + CANVAS + bytes.fromhex(ENCODER) + bytes(8)
    expected = hmac.digest(SECRET, message, "sha256")[:16]
    assert NoiseSeeds(SECRET).seed(CANVAS, ENCODER, 0) == int.from_bytes(expected, "big")


def test_each_of_them_changes_the_seed() -> None:
    other = hashlib.sha256(b"other")
    seeds = {
        NoiseSeeds(SECRET).seed(CANVAS, ENCODER, 0),
        NoiseSeeds(SECRET).seed(CANVAS, ENCODER, 1),
        NoiseSeeds(SECRET).seed(CANVAS, other.hexdigest(), 0),
        NoiseSeeds(SECRET).seed(other.digest(), ENCODER, 0),
        NoiseSeeds(b"t" * 32).seed(CANVAS, ENCODER, 0),
    }
    assert len(seeds) == 5


def test_the_digest_of_a_secret_is_not_a_seed_and_tells_secrets_apart() -> None:
    assert NoiseSeeds(SECRET).secret_digest != NoiseSeeds(b"t" * 32).secret_digest
    assert NoiseSeeds(SECRET).secret_digest == NoiseSeeds(SECRET).secret_digest
    assert NoiseSeeds.generate().secret_digest != NoiseSeeds.generate().secret_digest


def test_a_short_secret_is_refused() -> None:
    with pytest.raises(ValueError, match="31 bytes"):
        NoiseSeeds(b"s" * 31)


def test_pixels_shape_and_layout_make_the_digest_of_a_canvas() -> None:
    x = torch.zeros(3, 4, 4)
    digests = {
        canvas_digest(x, ()),
        canvas_digest(x, (1, 2)),
        canvas_digest(x.view(3, 2, 8), ()),
        canvas_digest(torch.full((3, 4, 4), 1e-7), ()),
    }
    assert len(digests) == 4
    # The memory layout of a tensor does not count.
    assert canvas_digest(torch.zeros(4, 4, 3).permute(2, 0, 1), ()) == canvas_digest(x, ())

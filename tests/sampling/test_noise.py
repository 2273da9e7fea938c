from itertools import islice

import numpy as np
import pytest
import torch
from torch import Tensor

from smoothgate.sampling import noise
from smoothgate.sampling.noise import NoiseGenerator, NumpyNoise, PhiloxNoise

both = pytest.mark.parametrize("generator", [PhiloxNoise(), NumpyNoise()], ids=["philox", "numpy"])


def _draw(generator: NoiseGenerator, seed: int, index: int, size: int = 4096) -> Tensor:
    out = torch.empty(1, size)
    generator.fill(out, [(seed, index)])
    return out[0]


@both
def test_a_sample_depends_on_seed_and_index_alone(generator: NoiseGenerator) -> None:
    batch = torch.empty(3, 4096)
    generator.fill(batch, [(8, 3), (7, 3), (7, 4)])
    assert torch.equal(_draw(generator, 7, 3), batch[1])
    for other in (batch[0], batch[2]):
        assert not torch.isin(batch[1][:100], other).any()


@both
@pytest.mark.parametrize("bit", range(0, 128, 9))
def test_every_bit_of_the_seed_changes_the_noise(generator: NoiseGenerator, bit: int) -> None:
    assert not torch.isin(_draw(generator, 1 << bit, 0, 64), _draw(generator, 0, 0, 64)).any()


@both
@pytest.mark.parametrize("bit", range(0, 64, 7))
def test_every_bit_of_the_index_changes_the_noise(generator: NoiseGenerator, bit: int) -> None:
    assert not torch.isin(_draw(generator, 5, 1 << bit, 64), _draw(generator, 5, 0, 64)).any()


@both
def test_the_noise_is_standard_normal(generator: NoiseGenerator) -> None:
    values = torch.cat([_draw(generator, noise.fresh_seed(), i) for i in range(64)]).double().numpy()
    n = values.size
    assert abs(values.mean()) < 5 / n**0.5
    assert abs(values.var() - 1) < 5 * (2 / n) ** 0.5
    assert abs((values**3).mean()) < 5 * (15 / n) ** 0.5
    assert abs((values**4).mean() - 3) < 5 * (96 / n) ** 0.5
    for bound, share in ((1, 0.682689), (2, 0.954500), (3, 0.997300)):
        assert abs((np.abs(values) < bound).mean() - share) < 5 * (share * (1 - share) / n) ** 0.5
    for lag in (1, 2, 3, 4):
        assert abs((values[:-lag] * values[lag:]).mean()) < 5 / n**0.5


@both
@pytest.mark.parametrize("shape", [(3, 4, 5), (60,), (61,), (3, 1, 1)])
def test_shape_does_not_change_the_values(generator: NoiseGenerator, shape: tuple[int, ...]) -> None:
    out = torch.empty(1, *shape)
    generator.fill(out, [(1, 2)])
    assert torch.equal(out.flatten(), _draw(generator, 1, 2)[: out.numel()])


def test_philox_gives_the_published_words() -> None:
    """Known answers of Random123 1.14 (kat_vectors, philox4x32 10)."""
    vectors = {
        ("00000000 00000000 00000000 00000000", "00000000 00000000"): "6627e8d5 e169c58d bc57ac4c 9b00dbd8",
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff"): "408f276d 41c83b0e a20bc7c6 6d5451fd",
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0"): "d16cfe09 94fdcceb 5001e420 24126ea1",
    }
    for (counter, key), expected in vectors.items():
        words = [torch.tensor(int(word, 16)) for word in counter.split()]
        k0, k1 = (torch.tensor(int(word, 16)) for word in key.split())
        assert [f"{int(word):08x}" for word in noise.philox(words, k0, k1)] == expected.split()


def test_the_largest_values_are_finite() -> None:
    zero, largest = torch.tensor([0]), torch.tensor([2**32 - 1])
    for u in (zero, largest):
        for v in (zero, largest):
            assert all(bool(part.isfinite().all()) for part in noise._box_muller(u, v))


def test_drawing_never_waits_for_the_device() -> None:
    """On `meta` tensors have no values, so that waiting for one raises."""
    PhiloxNoise().fill(torch.empty(4, 3, 8, 8, device="meta"), [(1, i) for i in range(4)])


@both
def test_certificates_name_their_generator(generator: NoiseGenerator) -> None:
    assert type(noise.generator_named(generator.name)) is type(generator)
    with pytest.raises(ValueError, match="unknown"):
        noise.generator_named(generator.name + " ")


def test_new_noise_does_not_hang_on_numpys_version() -> None:
    assert isinstance(noise.GENERATOR, PhiloxNoise)


@pytest.mark.parametrize(
    ("generator", "first"),
    [
        (PhiloxNoise(), [-1.1464981, 2.6465447, 0.4345793, -1.2801359]),
        (NumpyNoise(), [0.8715774, 1.4754822, 0.7892315, -0.6143011]),
    ],
    ids=["philox", "numpy"],
)
def test_the_noise_of_earlier_certificates_is_drawn_again(
    generator: NoiseGenerator, first: list[float]
) -> None:
    """Values of sample 5 of seed 2^100 + 3, as they were when the generator was introduced."""
    assert _draw(generator, 2**100 + 3, 5, 8)[: len(first)].tolist() == pytest.approx(first, abs=2e-6)


def test_fresh_seeds_differ() -> None:
    assert len({noise.fresh_seed() for _ in range(100)}) == 100


def test_selection_and_certification_draw_from_streams_that_do_not_move_each_other() -> None:
    one, other = (list(islice(noise.sample_numbers(n_select, 2), 40)) for n_select in (16, 17))
    assert one[:16] == other[:16] == list(range(16))
    assert one[16:39] == other[17:]
    assert set(one[:16]).isdisjoint(one[16:])


def test_earlier_releases_drew_one_stream() -> None:
    assert list(islice(noise.sample_numbers(16, 1), 40)) == list(range(40))

import numpy as np
import pytest

from service.smoothing import noise


def _draw(seed: int, index: int, size: int = 4096) -> np.ndarray:
    out = np.empty(size, dtype=np.float32)
    noise.draw_into(out, seed, index)
    return out


def test_a_sample_depends_on_seed_and_index_alone() -> None:
    assert np.array_equal(_draw(7, 3), _draw(7, 3))
    assert not np.array_equal(_draw(7, 3), _draw(7, 4))
    assert not np.array_equal(_draw(7, 3), _draw(8, 3))


def test_samples_do_not_overlap() -> None:
    long = _draw(1, 0, 100_000)
    assert not np.isin(_draw(1, 1, 100), long).all()


def test_the_whole_seed_counts() -> None:
    assert not np.array_equal(_draw(1, 0), _draw(1 + (1 << 127), 0))


def test_the_noise_is_standard_normal() -> None:
    values = np.concatenate([_draw(noise.fresh_seed(), i) for i in range(64)]).astype(np.float64)
    n = values.size
    assert abs(values.mean()) < 5 / n**0.5
    assert abs(values.var() - 1) < 5 * (2 / n) ** 0.5
    assert abs((np.abs(values) < 1).mean() - 0.682689) < 5 * (0.68 * 0.32 / n) ** 0.5


def test_fresh_seeds_differ() -> None:
    assert len({noise.fresh_seed() for _ in range(100)}) == 100


@pytest.mark.parametrize("shape", [(3, 4, 5), (60,)])
def test_shape_does_not_change_the_values(shape: tuple[int, ...]) -> None:
    out = np.empty(shape, dtype=np.float32)
    noise.draw_into(out, 1, 2)
    assert np.array_equal(out.ravel(), _draw(1, 2, 60))

import numpy as np
import pytest
from PIL import Image
from PIL.Image import Resampling

from smoothgate.vision.resize import FILTERS, LinearResize, resize_matrix, spectral_norm

RNG = np.random.default_rng(3)
BLACK = (0.0, 0.0, 0.0)

# (height, width) of the upload, of the resized image, and of the crop or padded canvas.
SHAPES = [
    ((12, 12), (12, 12), (12, 12)),
    ((21, 33), (12, 12), (12, 12)),
    ((5, 7), (16, 16), (16, 16)),
    ((9, 30), (12, 40), (12, 12)),
    ((30, 9), (10, 10), (15, 14)),
]


def build(
    upload: tuple[int, int], resized: tuple[int, int], canvas: tuple[int, int], filter_: str
) -> LinearResize:
    rows, columns = (
        resize_matrix(source, target, filter_, int((target - length) / 2), length)
        for source, target, length in zip(upload, resized, canvas, strict=True)
    )
    return LinearResize.from_matrices(rows, columns, BLACK)


@pytest.mark.parametrize("filter_", FILTERS)
@pytest.mark.parametrize(("source", "target"), [(50, 13), (13, 50), (20, 20), (97, 96), (1, 5), (5, 1)])
def test_agrees_with_pillow_in_floating_point(filter_: str, source: int, target: int) -> None:
    line = RNG.uniform(-1, 1, source).astype(np.float32)
    resized = Image.fromarray(line[None, :]).resize((target, 1), Resampling[filter_.upper()])
    ours = resize_matrix(source, target, filter_, 0, target) @ line
    assert np.abs(ours - np.asarray(resized)[0]).max() < 1e-6


@pytest.mark.parametrize("filter_", FILTERS)
def test_a_window_is_a_slice_padded_with_zeros(filter_: str) -> None:
    whole = resize_matrix(30, 20, filter_, 0, 20).toarray()
    assert np.array_equal(resize_matrix(30, 20, filter_, 4, 9).toarray(), whole[4:13])
    padded = resize_matrix(30, 20, filter_, -3, 25).toarray()
    assert np.array_equal(padded[3:23], whole)
    assert not padded[:3].any()
    assert not padded[23:].any()


@pytest.mark.parametrize("filter_", FILTERS)
@pytest.mark.parametrize(("upload", "resized", "canvas"), SHAPES)
def test_operator_norm_is_that_of_the_whole_map(
    filter_: str, upload: tuple[int, int], resized: tuple[int, int], canvas: tuple[int, int]
) -> None:
    resize = build(upload, resized, canvas, filter_)
    # The whole map as one matrix, column by column, and its largest singular value.
    basis = np.eye(upload[0] * upload[1], dtype=np.float32).reshape(-1, *upload)
    matrix = np.stack([resize.linear(np.repeat(e[..., None], 3, 2))[0].ravel() for e in basis], axis=1)
    exact = np.linalg.svd(matrix.astype(np.float64), compute_uv=False)[0]
    assert exact <= resize.operator_norm
    assert resize.operator_norm == pytest.approx(exact, rel=3e-6)


@pytest.mark.parametrize("filter_", FILTERS)
def test_operator_norm_by_power_iteration_with_colour(filter_: str) -> None:
    resize = build((45, 31), (20, 20), (16, 16), filter_)
    rows, columns = resize.rows.astype(np.float64), resize.columns.astype(np.float64)
    v = RNG.normal(size=(45, 31, 3)).astype(np.float32)
    for _ in range(300):
        v /= np.linalg.norm(v)
        image = resize.linear(v)
        norm = float(np.linalg.norm(image))
        v = np.stack([rows.T @ channel @ columns for channel in image], axis=2).astype(np.float32)
    assert norm <= resize.operator_norm
    assert norm == pytest.approx(resize.operator_norm, rel=2e-3)


def test_operator_norm_by_hand() -> None:
    # Doubling by nearest neighbour repeats every pixel four times. Halving selects pixels.
    assert build((8, 8), (16, 16), (16, 16), "nearest").operator_norm == pytest.approx(2, rel=3e-6)
    assert build((16, 16), (8, 8), (8, 8), "nearest").operator_norm == pytest.approx(1, rel=3e-6)
    # Nothing is resized, half is cropped away.
    assert build((16, 16), (16, 16), (8, 8), "bicubic").operator_norm == pytest.approx(1, rel=3e-6)
    # A constant line of n pixels has norm sqrt(n), so a reduction by k divides its norm by sqrt(k).
    assert build((64, 64), (16, 16), (16, 16), "bilinear").operator_norm >= 1 / 4


@pytest.mark.parametrize("filter_", FILTERS)
@pytest.mark.parametrize(("upload", "resized", "canvas"), SHAPES)
def test_no_perturbation_of_the_upload_moves_the_canvas_further(
    filter_: str, upload: tuple[int, int], resized: tuple[int, int], canvas: tuple[int, int]
) -> None:
    resize = build(upload, resized, canvas, filter_)
    image = RNG.integers(0, 256, (*upload, 3), dtype=np.uint8)
    for changed in (
        RNG.integers(0, 256, image.shape, dtype=np.uint8),
        image // np.uint8(2),
        image ^ np.uint8(1),
    ):
        moved = np.linalg.norm((resize.apply(image) - resize.apply(changed)).astype(np.float64))
        upload_distance = np.linalg.norm((image.astype(np.float64) - changed) / 255)
        assert moved <= resize.operator_norm * upload_distance


def test_map_is_linear_and_canvas_is_clamped() -> None:
    resize = build((31, 57), (48, 48), (48, 48), "bicubic")
    a, b = RNG.normal(size=(2, 31, 57, 3)).astype(np.float32)
    together = resize.linear(2 * a - 3 * b)
    assert np.abs(together - (2 * resize.linear(a) - 3 * resize.linear(b))).max() < 1e-5
    stripes = np.zeros((31, 57, 3), dtype=np.uint8)
    stripes[:, np.arange(57) % 20 < 10] = 255
    assert resize.linear(stripes.astype(np.float32) / np.float32(255)).min() < -0.01
    canvas = resize.apply(stripes)
    assert canvas.dtype == np.float32
    assert (canvas.min(), canvas.max()) == (0.0, 1.0)


def test_colours_are_kept_apart() -> None:
    resize = build((20, 30), (10, 10), (10, 10), "bicubic")
    image = np.zeros((20, 30, 3), dtype=np.uint8)
    image[..., 1] = 255
    canvas = resize.apply(image)
    assert not canvas[[0, 2]].any()
    assert canvas[1] == pytest.approx(1)


def test_spectral_norm_of_an_empty_matrix_is_zero() -> None:
    assert spectral_norm(resize_matrix(4, 4, "bicubic", 4, 3)) == 0

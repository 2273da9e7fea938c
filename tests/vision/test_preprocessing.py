from typing import Any

import numpy as np
import pytest
from PIL import Image
from transformers import CLIPImageProcessor, LlavaImageProcessor, SiglipImageProcessor, ViTImageProcessor

from smoothgate.errors import SmoothgateError
from smoothgate.vision.preprocessing import from_processor

SQUARE = {"height": 48, "width": 48}
PROCESSORS = {
    "clip": CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}),
    "clip-defaults": CLIPImageProcessor(),
    "clip-without-crop": CLIPImageProcessor(size=SQUARE, do_center_crop=False),
    "crop-larger-than-image": CLIPImageProcessor(
        size={"shortest_edge": 29}, crop_size={"height": 36, "width": 35}
    ),
    "crop-smaller-than-image": CLIPImageProcessor(size=SQUARE, crop_size={"height": 31, "width": 30}),
    "siglip": SiglipImageProcessor(size=SQUARE),
    "llava": LlavaImageProcessor(size={"shortest_edge": 48}, crop_size=SQUARE),
    "llava-padded": LlavaImageProcessor(size={"shortest_edge": 48}, crop_size=SQUARE, do_pad=True),
    "nearest": SiglipImageProcessor(size=SQUARE, resample=0),
    "lanczos": SiglipImageProcessor(size=SQUARE, resample=1),
    "bilinear": SiglipImageProcessor(size=SQUARE, resample=2),
}
SIZES = [(48, 48), (28, 28), (61, 97), (200, 133), (33, 400), (480, 640), (301, 299)]


def smooth(height: int, width: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    rng = np.random.default_rng(height * width)
    coarse = rng.integers(0, 256, (max(height // 8, 2), max(width // 8, 2), 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


@pytest.mark.parametrize("name", PROCESSORS)
@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_agrees_with_the_checkpoints_processor(name: str, size: tuple[int, int]) -> None:
    processor, pixels = PROCESSORS[name], smooth(*size)
    inputs = processor(images=Image.fromarray(pixels), do_normalize=False, return_tensors="np")
    settings = from_processor(processor)
    canvas = settings.linear_resize(*size).apply(pixels)
    assert canvas.shape == (3, *settings.canvas)
    difference = 255 * np.abs(canvas - inputs["pixel_values"][0])
    # The processor rounds to 8 bits and clips after each of two passes. An offset of one pixel would give a
    # mean difference of more than ten.
    assert difference.mean() < 0.45
    assert difference.max() < 8
    if size == SIZES[0] and settings.canvas == size and settings.background is None:
        assert difference.max() < 1e-4


def test_normalisation_constants() -> None:
    settings = from_processor(SiglipImageProcessor(image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6]))
    assert settings.mean == (0.1, 0.2, 0.3)
    assert settings.std == (0.4, 0.5, 0.6)


def test_the_background_does_not_count_in_the_norm() -> None:
    padded, plain = (
        from_processor(PROCESSORS[name]).linear_resize(48, 24) for name in ("llava-padded", "llava")
    )
    assert padded.operator_norm == pytest.approx(1, rel=3e-6)
    assert plain.operator_norm > 1.9
    # The border always has the mean colour, and the middle is the picture.
    pixels = smooth(48, 24)
    canvas = padded.apply(pixels)
    assert (canvas[:, :, :12] == canvas[:, :1, :1]).all()
    assert (canvas[:, :, 36:] == canvas[:, :1, :1]).all()
    assert np.abs(canvas[:, :, 12:36] * 255 - pixels.transpose(2, 0, 1)).max() < 1e-3


def test_the_matrices_of_a_strip_have_only_the_rows_of_the_canvas() -> None:
    resize = from_processor(CLIPImageProcessor()).linear_resize(1, 200)
    assert resize.rows.shape == (224, 1)
    assert resize.columns.shape == (224, 200)


@pytest.mark.parametrize(
    ("processor", "reason"),
    [
        (ViTImageProcessor(), "ViTImageProcessor is none of"),
        (CLIPImageProcessor(do_resize=False), "do_resize is off"),
        (CLIPImageProcessor(do_rescale=False), "do_rescale is off"),
        (CLIPImageProcessor(do_normalize=False), "do_normalize is off"),
        (CLIPImageProcessor(rescale_factor=1 / 127.5), "rescale_factor"),
        (CLIPImageProcessor(do_pad=True, pad_size=SQUARE), "do_pad is on"),
        (CLIPImageProcessor(do_center_crop=False), "no fixed size"),
        (LlavaImageProcessor(size={"shortest_edge": 47}, crop_size=SQUARE, do_pad=True), "two colours"),
        (CLIPImageProcessor(size={"shortest_edge": 32, "longest_edge": 64}), "longest_edge"),
        (CLIPImageProcessor(resample=4), "resample is box"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_unsupported_settings_are_refused_with_the_reason(processor: object, reason: str) -> None:
    with pytest.raises(SmoothgateError, match=reason) as caught:
        from_processor(processor)
    assert caught.value.code == "unsupported_model"

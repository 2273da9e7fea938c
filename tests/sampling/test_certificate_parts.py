"""The radius in upload space holds for what the file holds: decoded RGB, decoded grey, and nothing else."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from smoothgate.certify.certificate import UploadSpace
from smoothgate.psm.unit_encoder import UnitEncoder
from smoothgate.sampling.certificate_parts import certified_image
from smoothgate.vision import DecodedImage, decode

GREY = np.random.default_rng(0).integers(100, 150, (64, 64), dtype=np.uint8)


def _decoded(image: Image.Image) -> DecodedImage:
    file = io.BytesIO()
    image.save(file, "PNG")
    return decode(file.getvalue(), max_pixels=10**6)


def _moved(encoder: UnitEncoder, before: Image.Image, after: Image.Image) -> float:
    """How far the canvas moves."""
    canvases = [encoder.adapter.canvas(_decoded(image)).x for image in (before, after)]
    return float(torch.linalg.vector_norm((canvases[1] - canvases[0]).double()))


def test_a_step_of_grey_moves_the_canvas_by_the_root_of_3_more(demo_encoder: UnitEncoder) -> None:
    before, after = Image.fromarray(GREY), Image.fromarray(GREY + np.uint8(2))
    image = _decoded(before)
    part = certified_image(image, demo_encoder.adapter.canvas(image))
    assert (part.upload_space, part.upload_reason) == ("decoded grey", None)
    assert part.resize_norm is not None
    step = 2 / 255 * GREY.size**0.5
    moved = _moved(demo_encoder, before, after)
    assert moved > 1.5 * part.resize_norm * step, "as if it were RGB, it goes further than that"
    assert moved <= 3**0.5 * part.resize_norm * step * (1 + 1e-6)


@pytest.mark.parametrize(
    ("image", "space", "reason"),
    [
        (Image.fromarray(GREY).convert("RGB"), "decoded RGB", None),
        (Image.fromarray(GREY).convert("RGBA"), None, "transparency"),
        (Image.new("RGBA", (64, 64), (0, 0, 0, 200)), None, "transparency"),
        (Image.fromarray(GREY).convert("P"), None, "palette"),
        (Image.fromarray(GREY.astype(np.uint16) * 257), None, "16-bit"),
    ],
)
def test_other_files_have_no_factor_and_a_reason(
    demo_encoder: UnitEncoder, image: Image.Image, space: UploadSpace | None, reason: str | None
) -> None:
    decoded = _decoded(image)
    part = certified_image(decoded, demo_encoder.adapter.canvas(decoded))
    assert part.upload_space == space
    assert (reason or "") in (part.upload_reason or "")
    assert (part.upload_reason is None) == (space is not None)

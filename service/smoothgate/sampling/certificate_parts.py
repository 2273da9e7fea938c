"""The parts of a certificate that follow from picture and encoder. Issuing and verifying share them."""

from __future__ import annotations

from smoothgate.certify.certificate import CertifiedImage, CertifiedModel, Chance
from smoothgate.psm.unit_encoder import UnitEncoder
from smoothgate.vision import Canvas, DecodedImage


def certified_image(image: DecodedImage, canvas: Canvas) -> CertifiedImage:
    """What a certificate says about an image and its canvas."""
    _, height, width = canvas.x.shape
    return CertifiedImage(
        sha256=image.sha256,
        animated=image.animated,
        width=image.width,
        height=image.height,
        canvas_width=width,
        canvas_height=height,
        resize_norm=canvas.upload_norm,
    )


def certified_model(encoder: UnitEncoder, name: str) -> CertifiedModel:
    """What a certificate says about an encoder that is served under a name."""
    return CertifiedModel(
        name=name,
        digest=encoder.digest,
        psm_digest=encoder.psm_digest,
        dtype=str(encoder.adapter.dtype).removeprefix("torch."),
    )


def chance(encoder: UnitEncoder) -> Chance:
    """The cosine of unrelated images, as the encoder's calibration measured it."""
    figures = encoder.calibration.figures
    return Chance(mean=figures.chance_mean, p95=figures.chance_p95)

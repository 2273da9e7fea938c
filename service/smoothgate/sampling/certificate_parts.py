"""The parts of a certificate that follow from picture and encoder. Issuing and verifying share them."""

from __future__ import annotations

from smoothgate.certify.certificate import CertifiedImage, CertifiedModel, Chance, UploadSpace
from smoothgate.pictures.images import Samples
from smoothgate.psm.unit_encoder import UnitEncoder
from smoothgate.vision import Canvas, DecodedImage

_UPLOAD_SPACES: dict[Samples, UploadSpace] = {"rgb": "decoded RGB", "grey": "decoded grey"}
_REASONS: dict[Samples, str] = {
    "alpha": "the picture has transparency, which scales its colours",
    "palette": "the picture has a palette, in which neighbouring indices may be any two colours",
    "16-bit": "the picture has 16-bit samples, which are rounded to 8 bits",
    "cmyk": "the picture is in CMYK, and its conversion is not linear",
}


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
        upload_space=_UPLOAD_SPACES.get(image.samples),
        upload_reason=_REASONS.get(image.samples),
    )


def certified_model(encoder: UnitEncoder, name: str) -> CertifiedModel:
    """What a certificate says about an encoder that is served under a name."""
    return CertifiedModel(
        name=name,
        digest=encoder.digest,
        psm_digest=encoder.psm_digest,
        dtype=str(encoder.adapter.dtype).removeprefix("torch."),
        max_canvas_pixels=encoder.adapter.max_canvas_pixels,
        language_model_digest=None,
    )


def chance_at(encoder: UnitEncoder, sigma: float) -> Chance | None:
    """The cosine of unrelated images, as the encoder's calibration measured it; None: not at this sigma."""
    found = encoder.calibration.chance_at(sigma)
    return None if found is None else Chance(mean=found.mean, p95=found.p95_limit, pairs=found.pairs)

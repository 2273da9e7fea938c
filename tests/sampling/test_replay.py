"""A replay confirms a certificate that the sampler made, and no other. The encoder is real and tiny."""

import asyncio
import json
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from smoothgate.certify.certificate import Certificate
from smoothgate.certify.signing import SigningKey, jwks
from smoothgate.psm.calibration import calibrate
from smoothgate.psm.unit_encoder import UnitEncoder
from smoothgate.sampling import noise
from smoothgate.sampling.replay import replay
from smoothgate.sampling.sampler import Sampler, Worker
from smoothgate.sampling.sampling_plan import Plan
from smoothgate.sampling.smoother import Smoother
from smoothgate.verification import Check, check
from smoothgate.vision import Canvas, Layout, decode, load
from tests import checkpoints, psms
from tests.families.checkpoints import BUILDERS

STORED = Path(__file__).parent / "stored"
PLAN = Plan(
    sigma=0.05, n_select=33, n_certify=100, alpha=0.001, eps=(0.01, 0.02), cosine_threshold=0.1, target=None
)


def _picture(path: Path, seed: int) -> bytes:
    pixels: NDArray[np.uint8] = np.random.default_rng(seed).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((100, 80)).save(path)
    return path.read_bytes()


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> UnitEncoder:
    return _encoder(tmp_path_factory.mktemp("tiny"), seed=0)


def _encoder(path: Path, seed: int, psm_seed: int = 0) -> UnitEncoder:
    adapter = load(str(checkpoints.build(path, seed=seed)), device="cpu", dtype=torch.float32)
    assert adapter.canvas_shape is not None
    with torch.no_grad():
        tokens = adapter.tokens(torch.rand(32, *adapter.canvas_shape))
    psm = psms.build(adapter.digest, seed=psm_seed)
    return UnitEncoder(adapter, calibrate([tokens], None, adapter.digest), psm)


@pytest.fixture
def picture(tmp_path: Path) -> bytes:
    return _picture(tmp_path / "a.png", 1)


@pytest.fixture
def certificate(encoder: UnitEncoder, picture: bytes) -> Certificate:
    return _certificate(encoder, picture)


def _certificate(encoder: UnitEncoder, picture: bytes) -> Certificate:
    sampler = Sampler([Worker(encoder.units, torch.device("cpu"))] * 2, 24)
    sampler.start()
    smoother = Smoother(encoder, sampler, "tiny")

    async def make() -> Certificate:
        smoothed = await smoother.begin(decode(picture, max_pixels=10**6), PLAN, images=1, deadline=1e12)
        return await smoothed.certificate()

    try:
        return asyncio.run(make())
    finally:
        sampler.close()


def _failures(
    certificate: Certificate, picture: bytes | None, encoder: UnitEncoder | None, **changes: object
) -> list[Check]:
    key = SigningKey.generate()
    signed = certificate.model_copy(update=changes)
    load_encoder = None if encoder is None else lambda limit: encoder
    return [c for c in check(key.sign(signed), None, jwks([key]), picture, load_encoder) if not c.passed]


def test_a_replay_confirms_everything(certificate: Certificate, picture: bytes, encoder: UnitEncoder) -> None:
    key = SigningKey.generate()
    plain = certificate.model_dump(mode="json")
    checks = list(check(key.sign(certificate), plain, jwks([key]), picture, lambda limit: encoder))
    assert [c for c in checks if not c.passed] == []
    names = {c.name for c in checks}
    assert {
        "signature",
        "shown fields",
        "image",
        "PSM",
        "model",
        "score estimate",
        "FCSB at 0.02",
        "radius",
    } <= names


def test_a_certificate_that_names_another_generator_is_refused(
    certificate: Certificate, picture: bytes, encoder: UnitEncoder
) -> None:
    assert certificate.noise.generator == noise.PhiloxNoise.name
    other = certificate.noise.model_copy(update={"generator": noise.NumpyNoise.name})
    assert _failures(certificate, picture, encoder, noise=other)


def test_a_stored_certificate_with_noise_of_numpy_is_replayed() -> None:
    """It was made when NumPy drew the noise, with an encoder that returns its canvas."""

    def units(z: Tensor, sigma: Tensor, layout: Layout = ()) -> Tensor:
        return F.normalize(z.flatten(1), dim=1)

    certificate = Certificate.model_validate_json((STORED / "numpy_noise.json").read_text())
    assert certificate.noise.generator == noise.NumpyNoise.name
    encoder = SimpleNamespace(units=units, adapter=SimpleNamespace(device=torch.device("cpu")))
    canvas = Canvas(torch.linspace(0, 1, 48).view(3, 4, 4), 1.0)
    again = replay(cast("UnitEncoder", encoder), canvas, certificate)
    assert again.score_estimate == pytest.approx(certificate.score_estimate, abs=1e-6)
    assert again.radius == pytest.approx(certificate.radius.value, abs=1e-5)


def test_a_replay_gives_the_scores_of_batches_of_other_sizes(
    certificate: Certificate, picture: bytes, encoder: UnitEncoder
) -> None:
    canvas = encoder.adapter.canvas(decode(picture, max_pixels=10**6))
    again = replay(encoder, canvas, certificate)
    assert again.n_certify == 100
    assert again.score_estimate == pytest.approx(certificate.score_estimate, abs=1e-5)


def test_the_canvas_of_an_operators_limit_is_made_again(tmp_path: Path) -> None:
    """The certificate names the limit; without it, a replay has another canvas."""
    path = tmp_path / "qwen"
    BUILDERS["qwen2_5_vl"](path)

    def load_encoder(limit: int | None) -> UnitEncoder:
        adapter = load(str(path), device="cpu", dtype=torch.float32, max_canvas_pixels=limit)
        tokens = torch.randn(8, 9, adapter.hidden_size, generator=torch.Generator().manual_seed(0))
        return UnitEncoder(adapter, calibrate([tokens], None, adapter.digest, per_channel=True))

    picture = _picture(tmp_path / "a.png", 1)
    certificate = _certificate(load_encoder(4096), picture)
    assert certificate.model.max_canvas_pixels == 4096
    assert certificate.image.canvas_width * certificate.image.canvas_height <= 4096
    key = SigningKey.generate()
    jws, keys = key.sign(certificate), jwks([key])
    assert [c for c in check(jws, None, keys, picture, load_encoder) if not c.passed] == []
    failed = [
        c.name for c in check(jws, None, keys, picture, lambda limit: load_encoder(None)) if not c.passed
    ]
    assert "resize norm" in failed


def test_fields_that_an_earlier_release_did_not_know_are_not_missed(certificate: Certificate) -> None:
    key = SigningKey.generate()
    earlier = certificate.model_dump(mode="json")
    del earlier["model"]["max_canvas_pixels"]
    signed = cast("Certificate", SimpleNamespace(model_dump_json=lambda: json.dumps(earlier)))
    assert all(c.passed for c in check(key.sign(signed), earlier, jwks([key])))


def test_another_image_is_named(certificate: Certificate, encoder: UnitEncoder, tmp_path: Path) -> None:
    (failure,) = _failures(certificate, _picture(tmp_path / "b.png", 2), encoder)
    assert failure.name == "image"


def test_another_model_is_named(certificate: Certificate, picture: bytes, tmp_path: Path) -> None:
    names = [c.name for c in _failures(certificate, picture, _encoder(tmp_path, seed=1))]
    assert "model" in names


def test_another_psm_is_named(certificate: Certificate, picture: bytes, encoder: UnitEncoder) -> None:
    psm = psms.build(encoder.adapter.digest, seed=1)
    other = UnitEncoder(encoder.adapter, encoder.calibration, psm)
    assert [c.name for c in _failures(certificate, picture, other)] == ["PSM", "model"]


def test_a_score_that_was_not_drawn_is_named(
    certificate: Certificate, picture: bytes, encoder: UnitEncoder
) -> None:
    names = [c.name for c in _failures(certificate, picture, encoder, score_estimate=0.999)]
    assert names == ["score estimate"]


def test_another_seed_is_noticed(certificate: Certificate, picture: bytes, encoder: UnitEncoder) -> None:
    other = certificate.noise.model_copy(update={"seed": "1" * 32})
    assert _failures(certificate, picture, encoder, noise=other)


def test_an_overstated_sigma_is_noticed(
    certificate: Certificate, picture: bytes, encoder: UnitEncoder
) -> None:
    other = certificate.noise.model_copy(update={"sigma": certificate.noise.sigma * 1.3})
    names = [c.name for c in _failures(certificate, picture, encoder, noise=other)]
    assert "score estimate" in names
    assert "FCSB at 0.02" in names


def test_noise_of_an_unknown_generator_is_named(
    certificate: Certificate, picture: bytes, encoder: UnitEncoder
) -> None:
    other = certificate.noise.model_copy(update={"generator": "dice"})
    (failure,) = _failures(certificate, picture, encoder, noise=other)
    assert (failure.name, failure.detail) == ("noise", "its generator is not known here: dice")


def test_a_tampered_certificate_and_an_unknown_key_are_told_apart(certificate: Certificate) -> None:
    key, stranger = SigningKey.generate(), SigningKey.generate()
    jws = key.sign(certificate)
    head, body, signature = jws.split(".")
    (tampered,) = check(f"{head}.{body[:-6]}AAAAAA.{signature}", None, jwks([key]))
    assert tampered.detail.startswith("bad_signature")
    (unknown,) = check(jws, None, jwks([stranger]))
    assert unknown.detail.startswith("unknown_key")


def test_shown_fields_that_differ_from_the_signed_ones_are_named(certificate: Certificate) -> None:
    key = SigningKey.generate()
    shown = certificate.model_dump(mode="json") | {"outcome": "certified", "score_lower": 1.0}
    (_, fields) = check(key.sign(certificate), shown, jwks([key]))
    assert not fields.passed
    assert "score_lower" in fields.detail

"""A replay confirms a certificate that the sampler made, and no other. The encoder is real and tiny."""

import asyncio
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from smoothgate.certify.certificate import Certificate
from smoothgate.certify.certificate_v1 import CertificateV1
from smoothgate.certify.signing import SigningKey, jwks
from smoothgate.certify.statement import Terms
from smoothgate.psm.calibration import ChanceFigures, calibrate
from smoothgate.psm.unit_encoder import UnitEncoder
from smoothgate.sampling import noise
from smoothgate.sampling.noise_seeds import NoiseSeeds
from smoothgate.sampling.replay import Replay
from smoothgate.sampling.sampler import Sampler, Worker
from smoothgate.sampling.sampling_plan import Plan
from smoothgate.sampling.smoother import Smoother
from smoothgate.verification import Check, check
from smoothgate.vision import Canvas, DecodedImage, Layout, decode, load
from tests import checkpoints, psms
from tests.certify.certificates import sign_anything
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
    chance = {"0.05": ChanceFigures(mean=0.0, p95_limit=0.1, pairs=300)}
    calibration = calibrate([tokens], None, adapter.digest).with_smoothed({}, chance, psm.digest)
    return UnitEncoder(adapter, calibration, psm)


@pytest.fixture
def picture(tmp_path: Path) -> bytes:
    return _picture(tmp_path / "a.png", 1)


@pytest.fixture
def certificate(encoder: UnitEncoder, picture: bytes) -> Certificate:
    return _certificate(encoder, picture)


def _certificate(encoder: UnitEncoder, picture: bytes) -> Certificate:
    sampler = Sampler([Worker(encoder.units, torch.device("cpu"))] * 2, 24)
    sampler.start()
    smoother = Smoother(encoder, sampler, "tiny", seeds=NoiseSeeds.generate())

    async def make() -> Certificate:
        smoothed = await smoother.prepare(decode(picture, max_pixels=10**6), PLAN, images=1, deadline=1e12)
        smoothed.begin()
        return await smoothed.certificate()

    try:
        return asyncio.run(make())
    finally:
        sampler.close()


def _lied(value: Any, path: str, lie: object) -> Any:
    """A copy of a JSON value with another value at a path; a function makes it of the true one."""
    copy = json.loads(json.dumps(value))
    *outer, last = [int(key) if key.isdigit() else key for key in path.split(".")]
    inner = copy
    for key in outer:
        inner = inner[key]
    inner[last] = lie(inner[last]) if callable(lie) else lie
    return copy


def _paths(value: Any, name: str = "") -> Iterator[str]:
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            yield from _paths(item, f"{name}.{key}".lstrip("."))
    else:
        yield name


def _refusals(lie: Any, picture: bytes, encoder: UnitEncoder) -> list[Check]:
    """The checks that fail for what a key holder signs."""
    key = SigningKey.generate()
    signed = sign_anything(key, lie)
    return [c for c in check(signed, None, jwks([key]), picture, lambda limit: encoder) if not c.passed]


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
        "consistency",
        "score_estimate",
        "bounds",
        "radius",
        "assumptions",
        "on trust",
    } <= names


def test_what_is_not_checked_and_what_is_not_covered_has_a_row(
    certificate: Certificate, picture: bytes, encoder: UnitEncoder
) -> None:
    key = SigningKey.generate()
    signed, keys = key.sign(certificate), jwks([key])
    alone = {c.name: c.detail for c in check(signed, None, keys)}
    assert alone["on trust"].startswith("the scores: without the picture and the model")
    assert "whether the answer is right" in alone["not covered"]
    drawn: list[int] = []

    def watch(numbers: Iterable[int], total: int) -> Iterator[int]:
        assert total == PLAN.n_select + certificate.noise.n_certify
        for number in numbers:
            drawn.append(number)
            yield number

    whole = [c.name for c in check(signed, None, keys, picture, lambda limit: encoder, watch=watch)]
    assert whole[-2:] == ["on trust", "not covered"]
    assert len(drawn) == PLAN.n_select + certificate.noise.n_certify


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

    certificate = CertificateV1.model_validate_json((STORED / "numpy_noise.json").read_text())
    assert certificate.noise.generator == noise.NumpyNoise.name
    encoder = SimpleNamespace(units=units, adapter=SimpleNamespace(device=torch.device("cpu")))
    canvas = Canvas(torch.linspace(0, 1, 48).view(3, 4, 4), 1.0)
    image = DecodedImage(np.zeros((4, 4, 3), np.uint8), "PNG", "")
    splits = Replay.of(cast("UnitEncoder", encoder), image, canvas, certificate).splits
    terms = Terms(
        sigma=certificate.noise.sigma,
        alpha=certificate.alpha,
        eps=(0.1,),
        cosine_threshold=certificate.radius.cosine_threshold,
    )
    again = splits.statement(terms, certificate.noise.budget)
    assert again.score_estimate == pytest.approx(certificate.score_estimate, abs=1e-6)
    assert again.radius == pytest.approx(certificate.radius.value, abs=1e-5)


def test_the_canvas_of_an_operators_limit_is_made_again(tmp_path: Path) -> None:
    """The certificate names the limit; without it, a replay has another canvas."""
    path = tmp_path / "qwen"
    BUILDERS["qwen2_5_vl"](path)

    def load_encoder(limit: int | None) -> UnitEncoder:
        adapter = load(str(path), device="cpu", dtype=torch.float32, max_canvas_pixels=limit)
        tokens = torch.randn(8, 9, adapter.hidden_size, generator=torch.Generator().manual_seed(0))
        chance = {"0.05": ChanceFigures(mean=0.0, p95_limit=0.1, pairs=300)}
        calibration = calibrate([tokens], None, adapter.digest, per_channel=True)
        return UnitEncoder(adapter, calibration.with_smoothed({}, chance, None))

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
    assert "image" in failed


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
    assert names == ["score_estimate"]


def test_another_seed_is_noticed(certificate: Certificate, picture: bytes, encoder: UnitEncoder) -> None:
    other = certificate.noise.model_copy(update={"seed": "1" * 32})
    assert _failures(certificate, picture, encoder, noise=other)


def test_an_overstated_sigma_is_noticed(
    certificate: Certificate, picture: bytes, encoder: UnitEncoder
) -> None:
    other = certificate.noise.model_copy(update={"sigma": certificate.noise.sigma * 1.3})
    names = [c.name for c in _failures(certificate, picture, encoder, noise=other)]
    assert "score_estimate" in names
    assert "bounds" in names


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
    (_, fields, *_) = check(key.sign(certificate), shown, jwks([key]))
    assert not fields.passed
    assert "score_lower" in fields.detail


def _more(by: float) -> Any:
    return lambda value: value + by


#: What a lying key holder may sign: where, what, and where the refusal names it.
LIES: dict[str, tuple[dict[str, Any], str]] = {
    "upload radius": ({"radius.upload": 1000.0}, "radius.upload"),
    "bounds by name": ({"bounds.0.mean": 0.9999, "bounds.0.layer_cake": 0.9999}, "bounds[0]"),
    "layer cake alone": ({"bounds.0.layer_cake": 0.9999, "bounds.0.fcsb": 0.9999}, "bounds.0.layer_cake"),
    "radius by name": ({"radius.mean": 50.0, "radius.layer_cake": 50.0}, "radius.mean"),
    "layer-cake radius": ({"radius.layer_cake": 50.0, "radius.value": 50.0}, "radius.layer_cake"),
    "chance": ({"chance.p95": -0.9, "chance.mean": -0.95}, "chance.p95"),
    "assumptions": ({"assumptions": ["There are none."]}, "assumptions"),
    "chance that was not measured": ({"chance": None, "outcome": "vacuous"}, "chance"),
    "vacuous for another reason": ({"vacuous_because": "not calibrated"}, "vacuous_because"),
    "upload space": ({"image.upload_space": "decoded grey"}, "image.upload_space"),
    "a missing assumption": ({"assumptions": lambda given: given[:-1]}, "assumptions"),
    "image size": ({"image.width": 9999}, "image.width"),
    "canvas size": ({"image.canvas_height": 9999}, "image.canvas_height"),
    "animation": ({"image.animated": True}, "image.animated"),
    "resize norm": ({"image.resize_norm": 1e-3}, "image.resize_norm"),
    "stop reason": ({"stop_reason": "certified"}, "stop_reason"),
    "stop reason without a target": ({"stop_reason": "unreachable"}, "stop_reason"),
    "degraded from less": ({"noise.degraded_from": 5}, "noise"),
    "space": ({"space": "stacked_tiles"}, "space"),
    "dtype that is not used": (
        {"model.dtype": "bfloat16", "bounds.0.fcsb": _more(0.0199), "bounds.0.layer_cake": _more(0.0199)},
        "model.dtype",
    ),
    "bound behind a dtype": (
        {"model.dtype": "bfloat16", "bounds.0.fcsb": _more(0.0199), "bounds.0.layer_cake": _more(0.0199)},
        "bounds.0.layer_cake",
    ),
    "unknown dtype": (
        {"model.dtype": "float7", "bounds.0.fcsb": _more(0.0199), "bounds.0.layer_cake": _more(0.0199)},
        "bounds.0.fcsb",
    ),
    "score": ({"score_lower": _more(0.001)}, "score_lower"),
    "outcome": ({"outcome": lambda is_: "vacuous" if is_ != "vacuous" else "certified"}, "outcome"),
    "served": ({"served": lambda is_: "mean" if is_ == "layer_cake" else "layer_cake"}, "served"),
    "a target that was not met": (
        {"target": {"cosine": 0.999, "eps": 0.01, "fcsb": 0.9999}, "stop_reason": "certified"},
        "target.fcsb",
    ),
}


@pytest.mark.parametrize("name", LIES)
def test_a_false_certificate_is_refused_by_name(
    name: str, certificate: Certificate, picture: bytes, encoder: UnitEncoder
) -> None:
    lies, named = LIES[name]
    signed = certificate.model_dump(mode="json")
    for path, lie in lies.items():
        signed = _lied(signed, path, lie)
    refusals = _refusals(signed, picture, encoder)
    assert any(named in f"{c.name} {c.detail}" for c in refusals), refusals


def test_a_curve_that_is_too_high_is_refused(
    certificate: Certificate, picture: bytes, encoder: UnitEncoder
) -> None:
    signed = certificate.model_dump(mode="json")
    for point in signed["curve"]:
        point["fcsb"] = point["layer_cake"] = 0.999
    (refusal,) = _refusals(signed, picture, encoder)
    assert (refusal.name, "curve.24.fcsb" in refusal.detail) == ("curve", True)


def test_a_bound_that_is_too_low_is_true_and_passes(
    certificate: Certificate, picture: bytes, encoder: UnitEncoder
) -> None:
    signed = certificate.model_dump(mode="json")
    for key in ("fcsb", "layer_cake"):
        signed = _lied(signed, f"curve.3.{key}", _more(-1e-4))
    assert _refusals(signed, picture, encoder) == []


#: Values that no certificate should hold, and each of which may be signed.
EXTREMES: tuple[Any, ...] = (None, -1, 0, 1, 1e-300, 1e300, 2**200, "", "x", [], {}, "ff" * 20)


@pytest.mark.parametrize("some", [4, pytest.param(1, marks=pytest.mark.long)], ids=["a fourth", "all"])
def test_no_signed_number_ends_in_a_traceback_or_in_long_work(
    some: int, certificate: Certificate, picture: bytes, encoder: UnitEncoder
) -> None:
    """Every field, with extreme values in turn: each is refused unless nothing can check it."""
    true = certificate.model_dump(mode="json")
    # What is on trust.
    free = ("time", "model.name", "model.language", "noise.degraded_from", "cached", "request", "served_")
    for number, path in enumerate(_paths(true)):
        if path.startswith(("curve", "bounds.1", "assumptions.1")):
            continue
        for extreme in EXTREMES[number % some :: some]:
            refusals = _refusals(_lied(true, path, extreme), picture, encoder)
            assert refusals or path.startswith(free) or _lied(true, path, extreme) == true, (path, extreme)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"bounds": lambda bounds: bounds[::-1]}, "ascending"),
        ({"noise.n_certify": 101}, "budget"),
        ({"noise.seed": "1" * 33}, "seed"),
        ({"noise.n_certify": 10**9, "noise.budget": 10**9}, "1000000033 samples"),
        ({"noise.n_select": 10**9}, "1000000100 samples"),
    ],
)
def test_malformed_signed_input_is_named(
    change: dict[str, Any], named: str, certificate: Certificate, picture: bytes, encoder: UnitEncoder
) -> None:
    signed = certificate.model_dump(mode="json")
    for path, lie in change.items():
        signed = _lied(signed, path, lie)
    refusals = _refusals(signed, picture, encoder)
    assert any(named in c.detail for c in refusals), refusals

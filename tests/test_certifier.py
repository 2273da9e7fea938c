"""The library: the service's flow without HTTP, on the bundled demo model."""

import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import structlog
from PIL import Image

import smoothgate
from smoothgate import Certifier, extras
from smoothgate.certify.signing import verify
from smoothgate.errors import MalformedRequest, NoLanguageModel, NotReady, SmoothgateError, Unacceptable
from smoothgate.schemas import SmoothingOptions, TargetOptions
from tests import processes, shared_vllm
from tests.examples import run_examples
from tests.fake_vllm import TEXT, FakeVllm
from tests.whole_service import SAMPLES

# Without measuring the machine.
QUICK: dict[str, Any] = {"n_select": 8, "n_certify": 48, "threads": 1, "batch_size": 16}
SEVEN = SAMPLES / "seven.png"


@pytest.fixture(scope="module")
def certifier() -> Iterator[Certifier]:
    with Certifier(**QUICK) as certifier:
        yield certifier


def test_a_picture_in_any_form(certifier: Certifier) -> None:
    image = Image.open(SEVEN).convert("RGB")
    first = certifier.certify(SEVEN)
    assert verify(first.jws, certifier.key_set).model_dump()["image"]["sha256"] == first.image.sha256
    assert first.noise.n_certify == 48
    for same in (str(SEVEN), SEVEN.read_bytes()):
        assert certifier.certify(same).image.sha256 == first.image.sha256
    made = [certifier.certify(form) for form in (image, np.asarray(image))]
    # The same pixels, so the same noise and the same numbers, in another file.
    assert made[0].image.sha256 == made[1].image.sha256
    assert {one.noise.seed for one in made} == {first.noise.seed}
    assert made[0].score_lower == pytest.approx(first.score_lower, abs=1e-6)


def test_terms_of_one_call(certifier: Certifier) -> None:
    wish = SmoothingOptions(n_certify=256, target=TargetOptions(cosine=0.75, eps=0.1))
    certificate = certifier.certify(SEVEN, smoothing=wish)
    assert certificate.outcome == "certified"
    assert certificate.target is not None


def test_many_pictures_keep_their_order_and_failures_their_place(
    certifier: Certifier, tmp_path: Path
) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    given = [SEVEN, tmp_path / "broken.png", SAMPLES / "two.png", tmp_path / "missing.png", SEVEN]
    outcomes = list(certifier.certify_all(given, ahead=2))
    assert [outcome.picture for outcome in outcomes] == given
    assert [outcome.value is None for outcome in outcomes] == [False, True, False, True, False]
    errors = [outcome.error for outcome in outcomes]
    assert errors[1] is not None
    assert errors[3] is not None
    assert errors[3].code == "unreadable_file"
    alone = certifier.certify(SAMPLES / "two.png")
    value = outcomes[2].value
    assert value is not None
    assert value.noise.seed == alone.noise.seed


def test_pictures_are_taken_as_they_are_needed(certifier: Certifier) -> None:
    taken = []

    def pictures() -> Iterator[Path]:
        for number in range(100):
            taken.append(number)
            yield SEVEN

    outcomes = certifier.certify_all(pictures(), ahead=3)
    assert next(outcomes).value is not None
    assert len(taken) == 3


def test_features_are_unit_vectors_whose_certificates_hold_for_noisy_copies(certifier: Certifier) -> None:
    features = certifier.features(SEVEN)
    assert float(np.linalg.norm(features.vector)) == pytest.approx(1.0, abs=1e-5)
    other = certifier.features(SAMPLES / "two.png")
    assert float(features.vector @ other.vector) < 0.9
    assert features.certificate.image.sha256 == certifier.certify(SEVEN).image.sha256


def test_an_answer(vllm: FakeVllm) -> None:
    with Certifier(engine_url=vllm.url, **QUICK) as certifier:
        answer = certifier.ask("What digit is shown?", [SEVEN], max_tokens=9)
        assert answer.text == TEXT
        assert answer.certificates is not None
        assert len(answer.certificates) == 1
        wish = SmoothingOptions(certify="answer", target=TargetOptions(eps=0.2))
        voted = certifier.ask("What digit is shown?", [SEVEN], smoothing=wish)
        assert voted.answer_certificate is not None
        assert voted.answer_certificate.outcome == "certified"
    assert vllm.bodies[0]["max_tokens"] == 9


def _asked(certifier: Certifier) -> None:
    """Both kinds of certificate, with the answer of a real vLLM."""
    answer = certifier.ask("What digit is shown?", [SEVEN], temperature=0, max_tokens=16)
    assert answer.text == "The digit is 7."
    assert answer.certificates is not None
    assert answer.certificates[0].answer is not None
    wish = SmoothingOptions(certify="answer", target=TargetOptions(eps=0.25))
    voted = certifier.ask(
        "What digit is shown?", [SEVEN], smoothing=wish, temperature=0, max_tokens=16
    ).answer_certificate
    assert voted is not None
    assert (voted.outcome, voted.answer.canonical) == ("certified", "the digit is 7.")
    assert verify(voted.jws, certifier.key_set).model_dump()["radius"] == voted.radius


@pytest.mark.engine
def test_an_answer_of_a_vllm_that_runs_elsewhere(demo_vllm: str) -> None:
    with Certifier(engine_url=demo_vllm, **QUICK) as certifier:
        _asked(certifier)


@pytest.mark.long
@pytest.mark.engine
def test_an_answer_of_a_vllm_that_the_certifier_starts_and_ends() -> None:
    own: dict[str, Any] = {"engine_max_model_len": 1024, "engine_kv_cache_gib": shared_vllm.KV_CACHE_GIB}
    others = processes.descendants(os.getpid())
    with Certifier(engine="vllm", **QUICK, **own) as certifier:
        _asked(certifier)
        now = processes.descendants(os.getpid())
        started = [pid for pid, line in now.items() if "vllm" in line and pid not in others]
        assert started
    assert not [pid for pid in started if processes.alive(pid)]


def test_the_log_of_the_process_is_left_as_it_is(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    structlog.reset_defaults()
    root = logging.getLogger()
    before = (list(root.handlers), root.level)
    with caplog.at_level(logging.WARNING, logger="smoothgate"), Certifier(**QUICK) as certifier:
        certifier.certify(SEVEN)
    assert not structlog.is_configured()
    assert (list(root.handlers), root.level) == before
    assert capfd.readouterr().out == ""
    said = {(record.name, record.levelname) for record in caplog.records}
    assert ("smoothgate.smoother", "WARNING") in said
    assert "SMOOTHGATE_NOISE_SECRET_FILE" in caplog.text


def test_the_same_secret_gives_the_same_certificate(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("0123456789abcdef" * 4)
    made = []
    for _ in range(2):
        with Certifier(noise_secret_file=tmp_path / "secret", **QUICK) as certifier:
            made.append(certifier.certify(SEVEN).model_dump(exclude={"jws", "time", "request_id"}))
    assert made[0] == made[1]


def test_what_is_no_picture_is_refused(certifier: Certifier) -> None:
    with pytest.raises(Unacceptable, match="cannot be read"):
        certifier.certify("missing.png")
    with pytest.raises(MalformedRequest, match="uint8"):
        certifier.certify(np.zeros((4, 4, 3)))  # type: ignore[arg-type]
    with pytest.raises(MalformedRequest, match="no picture"):
        certifier.certify(5)  # type: ignore[arg-type]
    with pytest.raises(NoLanguageModel):
        certifier.ask("Hello")


def test_a_certifier_that_is_closed_or_cannot_start_says_so() -> None:
    certifier = Certifier(**QUICK)
    certifier.close()
    certifier.close()
    with pytest.raises(NotReady, match="closed"):
        certifier.certify(SEVEN)
    with pytest.raises(SmoothgateError, match="SMOOTHGATE_MODEL: There is no folder"):
        Certifier(model="./nowhere")


def test_without_its_extra_the_library_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "missing", lambda extra: ["torch"] if extra == "serve" else [])
    with pytest.raises(extras.MissingExtra, match=r"smoothgate\[serve\]"):
        _ = smoothgate.Certifier
    assert smoothgate.Client.__name__ == "Client"


def test_the_examples_of_the_library(vllm: FakeVllm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("seven.png", "two.png"):
        shutil.copy(SAMPLES / name, tmp_path)
    (tmp_path / "broken.png").write_bytes(b"no picture")
    monkeypatch.chdir(tmp_path)
    quick = ", ".join(f"{name}={value}" for name, value in QUICK.items())
    _, said = run_examples(
        "library.md",
        {
            "http://127.0.0.1:8001": vllm.url,
            "Certifier(": f"Certifier({quick}, ",
            '"two.png"], sigma': f'"two.png"], {quick}, sigma',
        },
    )
    assert said[0].startswith("bounded ")
    assert said[1].startswith("broken.png ")
    assert said[-1].startswith(TEXT)
    assert sum(line.startswith("within") for line in said) >= 3

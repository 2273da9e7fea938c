"""A certificate of an answer is checked from its votes: every number that is too good is named."""

from datetime import UTC, datetime
from typing import Any

import pytest

from smoothgate.answer_verification import check_answer
from smoothgate.certify.answer_certificate import (
    AnswerCertificate,
    VotedAnswer,
    VoteNoise,
    Votes,
    sha256,
    voted_image,
)
from smoothgate.certify.certificate import CertifiedImage, CertifiedModel, Question
from smoothgate.certify.signing import BadSignature, SigningKey, jwks, verify
from smoothgate.certify.votes import Tally, VoteCount, VoteTerms
from smoothgate.verification import check, read

DIGEST = "0" * 64
PICTURE, TEXT = b"a picture", "The digit is 7."
TERMS = VoteTerms(sigma=0.5, alpha=0.001, radius=0.5)


def image() -> CertifiedImage:
    return CertifiedImage(
        sha256=sha256(PICTURE.decode()),
        width=96,
        height=96,
        canvas_width=48,
        canvas_height=48,
        resize_norm=0.5,
        upload_space="decoded RGB",
        upload_reason=None,
    )


AGREED, SELECTED = Tally(44), Tally(16)


def certificate(votes: Tally = AGREED, selection: Tally = SELECTED) -> AnswerCertificate:
    count = VoteCount(TERMS, selection, 256)
    reason = count.update(votes)
    statement = count.statement()
    return AnswerCertificate(
        time=datetime(2026, 11, 28, tzinfo=UTC),
        request_id="abc",
        images=(voted_image(image(), 7, statement.radius),),
        model=CertifiedModel(
            name="demo", digest=DIGEST, psm_digest=None, dtype="float32", language_model_digest=None
        ),
        question=Question(messages_sha256=DIGEST, decoding_sha256=DIGEST),
        answer=VotedAnswer(
            form="text",
            pointer=None,
            canonical="the digit is 7.",
            canonical_sha256=sha256("the digit is 7."),
            text_sha256=sha256(TEXT),
        ),
        noise=VoteNoise(sigma=0.5, generator="philox", budget=256),
        alpha=0.001,
        selection=Votes.of(selection),
        votes=Votes.of(votes),
        stop_reason=reason or "deadline",
        p_low=statement.p_low,
        p_up=statement.p_up,
        radius=statement.radius,
        target=0.5,
        outcome="certified" if statement.certified else "abstained",
    )


def failed(made: AnswerCertificate, texts: list[str] | None = None) -> list[str]:
    return [one.name for one in check_answer(made, [PICTURE], texts) if not one.passed]


@pytest.mark.parametrize("votes", [Tally(44), Tally(100, 3, 1), Tally(10, 10, 10)])
def test_a_true_certificate_passes(votes: Tally) -> None:
    assert failed(certificate(votes), [TEXT]) == []


@pytest.mark.parametrize(
    "lie",
    [
        {"p_low": 0.9},
        {"p_up": 0.01},
        {"radius": 0.9},
        {"outcome": "abstained"},
        {"assumptions": ("None.",)},
        {"stop_reason": "budget"},
        {"stop_reason": "unreachable"},
        {"votes": Votes(hits=20, runner_up=0, rest=0)},
        {"selection": Votes(hits=2, runner_up=7, rest=7)},
        {"alpha": 0.0001},
        {"target": 0.8},
        {"noise": VoteNoise(sigma=0.25, generator="philox", budget=256)},
        {"images": (voted_image(image(), 7, 3.0),)},
    ],
)
def test_what_is_better_than_the_votes_is_refused(lie: dict[str, Any]) -> None:
    assert failed(certificate().model_copy(update=lie)) == ["votes"]


def test_a_canonical_answer_of_another_digest_is_refused() -> None:
    true = certificate()
    lie = true.answer.model_copy(update={"canonical": "the digit is 1."})
    assert failed(true.model_copy(update={"answer": lie})) == ["votes"]


def test_one_changed_letter_of_the_answer_is_refused() -> None:
    assert failed(certificate(), ["The digit is 1."]) == ["answer"]


def test_another_picture_is_refused() -> None:
    checks = check_answer(certificate(), [b"another picture"], None)
    assert [one.name for one in checks if not one.passed] == ["images"]


def test_a_signed_certificate_is_read_from_an_answer_and_checked() -> None:
    key = SigningKey.generate()
    made = certificate()
    jws, keys = key.sign(made), jwks([key])
    assert verify(jws, keys) == made
    issued = made.model_dump_json()[:-1] + f', "jws": "{jws}"}}'
    ((found, plain),) = read(f'{{"answer": "{TEXT}", "certificates": [], "answer_certificate": {issued}}}')
    assert found == jws
    assert all(one.passed for one in check(found, plain, keys, images=[PICTURE], texts=[TEXT]))
    assert plain is not None
    changed = check(found, plain | {"radius": 9.0}, keys)
    assert [one.name for one in changed if not one.passed] == ["shown fields"]
    with pytest.raises(BadSignature):
        verify(jws[:-4] + "AAAA", keys)


def test_votes_beyond_the_budget_are_named_and_no_traceback() -> None:
    key = SigningKey.generate()
    made = certificate().model_copy(update={"votes": Votes(hits=300, runner_up=0, rest=0)})
    checks = list(check(key.sign(made), None, jwks([key])))
    assert [one.name for one in checks if not one.passed] == ["recomputation"]

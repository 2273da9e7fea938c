"""Certificates as they are handed out: signed, and kept where the operator wants it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from smoothgate import metrics, tracing
from smoothgate.certify.answer_certificate import (
    AnswerCertificate,
    VotedAnswer,
    VoteNoise,
    Votes,
    sha256,
    voted_image,
)
from smoothgate.certify.certificate import Binding, Certificate, Question
from smoothgate.certify.commitment import Checkpoint
from smoothgate.certify.signing import PublicKey, SigningKey, content, jwks
from smoothgate.errors import NotFound, SmoothgateError
from smoothgate.gate.accounts import Account
from smoothgate.gate.answer_form import AnswerForm
from smoothgate.gate.certificate_store import CertificateStore
from smoothgate.gate.commitment_log import CommitmentLog
from smoothgate.gate.vote_plan import VotePlan
from smoothgate.gate.voting import Decision
from smoothgate.logs import get_logger
from smoothgate.off_loop import off_loop
from smoothgate.sampling import noise
from smoothgate.sampling.smoother import Smoothed, Smoother
from smoothgate.schemas import IssuedAnswerCertificate, IssuedCertificate

Json = dict[str, Any]

log = get_logger("certificates")


class Issuer:
    """The signing key, the public halves of its predecessors, and the store.

    Args:
        signing_key_file: Ed25519 private key; None: generates a new key.
        retired_keys: files of further public keys to publish.
        store: None: certificates are not kept.
        commitments: the log that takes the digests of certificates; None: there is none.

    Raises:
        SmoothgateError: code `bad_key`: a key file cannot be read or holds no Ed25519 key.
    """

    def __init__(
        self,
        signing_key_file: Path | None,
        retired_keys: Sequence[str],
        store: CertificateStore | None,
        commitments: CommitmentLog | None = None,
    ) -> None:
        if signing_key_file is None:
            self._key = SigningKey.generate()
            log.warning(
                "certificates are signed with a key generated at this start; "
                "set SMOOTHGATE_SIGNING_KEY_FILE so that they can be checked after it",
                kid=self._key.kid,
            )
        else:
            self._key = SigningKey.load(_read("SMOOTHGATE_SIGNING_KEY_FILE", signing_key_file, SigningKey))
        retired = [
            PublicKey.load(_read("SMOOTHGATE_RETIRED_KEYS", Path(path), PublicKey)) for path in retired_keys
        ]
        self.key_set: dict[str, Any] = jwks([self._key, *retired])
        self._store = store
        self._commitments = commitments

    async def issue(
        self,
        images: Sequence[Smoothed],
        certificates: Sequence[Certificate],
        binding: Binding,
        account: Account | None,
    ) -> list[IssuedCertificate]:
        """The certificates of images (`certificates_of`), bound and signed. The store remembers the account.

        A store that fails is logged and counted, and the certificates go out. Without the log of commitments
        none goes out.

        Raises:
            NotReady: the log cannot be written.
        """
        issued = [
            await self._issue(image, certificate.bound_to(binding), account)
            for image, certificate in zip(images, certificates, strict=True)
        ]
        if self._commitments is not None:
            await self._commitments.record(
                [(each.commitment, each.jws) for each in issued if each.commitment is not None]
            )
        return issued

    def checkpoint(self, log_id: str, size: int, root: bytes) -> str:
        """The state of the log, signed: a JWS in compact serialisation."""
        return self._key.sign_checkpoint(
            Checkpoint(log=log_id, size=size, root=root.hex(), time=datetime.now(UTC))
        )

    async def issue_answer(
        self, certificate: AnswerCertificate, generations: int, account: Account | None
    ) -> IssuedAnswerCertificate:
        """The certificate of an answer (`answer_certificate`), signed.

        Args:
            certificate: as it was made.
            generations: that the answer took.
            account: of the client, for the store.

        Raises:
            NotReady: the log cannot be written.
        """
        metrics.ANSWERS.labels(certificate.outcome).inc()
        metrics.ANSWER_RADIUS.observe(certificate.radius or 0.0)
        metrics.GENERATIONS.observe(generations)
        jws = self._key.sign(certificate)
        await self._keep(jws, [], [], certificate.request_id, account)
        if self._commitments is not None and certificate.commitment is not None:
            await self._commitments.record([(certificate.commitment, jws)])
        return IssuedAnswerCertificate(**dict(certificate), jws=jws)

    async def issued(self, request_id: str, account: Account | None) -> list[Json]:
        """What the store has of a client's request, as it was handed out.

        Raises:
            NotFound: there is no store, or it holds nothing of this request of this client.
        """
        if self._store is None:
            raise NotFound("This service keeps no certificates.", code="no_store")
        kept = await off_loop(self._store.find, request_id, _name(account))
        if not kept:
            raise NotFound(
                "No certificate of this request of yours is kept.", param="id", code="certificate_not_found"
            )
        return [content(jws) | {"jws": jws} for jws in kept]

    async def _issue(
        self, image: Smoothed, certificate: Certificate, account: Account | None
    ) -> IssuedCertificate:
        jws = self._key.sign(certificate)
        if self._store is not None:
            await self._keep(jws, *image.scores(), certificate.request_id or "", account)
        return IssuedCertificate(**dict(certificate), jws=jws)

    async def _keep(
        self,
        jws: str,
        selection: list[float],
        certification: list[float],
        request_id: str,
        account: Account | None,
    ) -> None:
        if self._store is None:
            return
        try:
            await off_loop(
                self._store.append,
                jws,
                selection,
                certification,
                request_id=request_id,
                client=_name(account),
            )
        except OSError as error:
            metrics.STORE_FAILURES.inc()
            log.error("a certificate could not be kept", reason=str(error))


def answer_certificate(
    decision: Decision,
    form: AnswerForm,
    smoother: Smoother,
    *,
    plan: VotePlan,
    request_id: str,
    language_model_digest: str | None,
    question: Question,
) -> AnswerCertificate:
    """The certificate of an answer, not signed yet.

    Args:
        decision: how the vote ended.
        form: in which answers were compared.
        smoother: drew the noisy copies.
        plan: how the vote was held.
        request_id: of the request.
        language_model_digest: as certificates of features have it.
        question: what was asked.
    """
    statement, canonical = decision.statement, decision.candidates.answer
    radius = None if canonical is None else statement.radius
    return AnswerCertificate(
        time=datetime.now(UTC),
        request_id=request_id,
        images=tuple(voted_image(image.certified, image.seed, radius) for image in decision.images),
        model=smoother.model.model_copy(update={"language_model_digest": language_model_digest}),
        question=question,
        answer=VotedAnswer(
            form=form.kind,
            pointer=form.pointer,
            canonical=canonical,
            canonical_sha256=None if canonical is None else sha256(canonical),
            text_sha256=sha256(decision.served.text),
        ),
        noise=VoteNoise(sigma=plan.terms.sigma, generator=noise.GENERATOR.name, budget=plan.budget),
        alpha=plan.terms.alpha,
        selection=Votes.of(decision.candidates.votes),
        votes=Votes.of(statement.tally),
        stop_reason=decision.reason,
        p_low=statement.p_low,
        p_up=statement.p_up,
        radius=radius,
        target=plan.terms.radius,
        outcome="certified" if decision.certified else "abstained",
        commitment=decision.commitment,
    )


async def certificates_of(images: Sequence[Smoothed]) -> list[Certificate]:
    """One certificate per image, once all sampling has ended; neither bound nor signed yet.

    Raises:
        SamplerFailed, NotReady: the sampler failed or is being shut down.
        Unacceptable: the noisy features of an image have no common direction.
    """
    with tracing.stage("certify"):
        return [await image.certificate() for image in images]


def _name(account: Account | None) -> str | None:
    return None if account is None else account.name


def _read(setting: str, path: Path, kind: type[PublicKey]) -> str:
    try:
        text = path.read_text()
        kind.load(text)
    except (OSError, ValueError) as error:
        raise SmoothgateError(
            f"{setting}: the key file {path} cannot be used: {error}.", code="bad_key"
        ) from error
    return text

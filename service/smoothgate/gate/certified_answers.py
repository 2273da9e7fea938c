"""Answers that are certified themselves: a vote of noisy copies, and the certificate of what most say."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

from smoothgate import metrics
from smoothgate.certify.certificate import Commitment, Question
from smoothgate.certify.commitment import answer_request
from smoothgate.engine import EngineClient
from smoothgate.engine.prompt_lists import PromptLists
from smoothgate.errors import PolicyNotMet
from smoothgate.gate.accounts import Account
from smoothgate.gate.admission import Admission
from smoothgate.gate.answer_form import AnswerForm, answer_form
from smoothgate.gate.asking import ChatAsker, ListAsker
from smoothgate.gate.binding import question_of
from smoothgate.gate.chat_images import ImageSlot
from smoothgate.gate.commitment_log import CommitmentLog
from smoothgate.gate.engine_fields import longest_answer
from smoothgate.gate.gatekeeper import Gatekeeper
from smoothgate.gate.image_smoothing import ImageSmoothing
from smoothgate.gate.issuing import Issuer, answer_certificate
from smoothgate.gate.request_timing import Stages
from smoothgate.gate.token_meter import TokenMeter
from smoothgate.gate.vote_plan import VotePlan
from smoothgate.gate.voting import Asker, Generation, Report, Voting, unreported
from smoothgate.logs import get_logger
from smoothgate.off_loop import off_loop
from smoothgate.sampling.smoother import Relayed, Smoother
from smoothgate.schemas import AnswerOptions, IssuedAnswerCertificate, SmoothingOptions
from smoothgate.vision import DecodedImage
from smoothgate.vision.text_embeddings import TextEmbeddings

Json = dict[str, Any]

log = get_logger("gate")


@dataclass(frozen=True, slots=True)
class CleanedChat:
    """A turn as vLLM may see it, before its images are touched.

    Attributes:
        smoother: encodes the images.
        body: of vLLM's request, with an empty part in the place of each image.
        slots: these places.
    """

    smoother: Smoother
    body: Json
    slots: Sequence[ImageSlot]


@dataclass(frozen=True, slots=True)
class Ballot:
    """A turn whose answer is certified, with its images decoded.

    Attributes:
        chat: the turn.
        images: in the order of its places.
        plan: how the vote is held.
        form: in which answers are compared.
        queued: to be called once the images are queued: it gives back the room that was kept for them.
    """

    chat: CleanedChat
    images: Sequence[DecodedImage]
    plan: VotePlan
    form: AnswerForm
    queued: Callable[[], None]


class CertifiedAnswers:
    """Holds votes and issues their certificates.

    Args:
        smoothing: admits and decodes images.
        voting: counts.
        admission: room for generations at vLLM.
        issuer: signs.
        client: of vLLM.
        gatekeeper: the limits of an account.
        checkpoint: of the model, for its text embeddings.
        language_model_digest: for certificates; may take long the first time.
        log: takes commitments before the first noise is drawn; None: there are none.
    """

    def __init__(
        self,
        smoothing: ImageSmoothing,
        voting: Voting,
        admission: Admission,
        issuer: Issuer,
        client: EngineClient,
        gatekeeper: Gatekeeper,
        *,
        checkpoint: str,
        language_model_digest: Callable[[], str | None],
        log: CommitmentLog | None,
    ) -> None:
        self._smoothing = smoothing
        self._voting = voting
        self._admission = admission
        self._issuer = issuer
        self._client = client
        self._gatekeeper = gatekeeper
        self._checkpoint = checkpoint
        self._language_model_digest = language_model_digest
        self._log = log

    @asynccontextmanager
    async def ballot(
        self,
        chat: CleanedChat,
        options: SmoothingOptions,
        parameters: Json,
        messages: Any,
        account: Account | None,
        stages: Stages,
    ) -> AsyncIterator[Ballot]:
        """A turn whose answer is to be certified, once its images are decoded. Room at the sampler is kept
        for them until they are queued, or the block ends.

        Args:
            chat: the turn.
            options: the client's wishes.
            parameters: of vLLM, as the client sent them.
            messages: as the client sent them.
            account: the client.
            stages: times.

        Raises:
            SmoothgateError: what is asked for contradicts itself or is not allowed, or there is no room.
        """
        form = answer_form(options.answer or AnswerOptions(), parameters, messages)
        slots = chat.slots
        plan = await self._smoothing.vote_plan(slots, options)
        with self._admission.reserved(self._voting.generations, plan.samples) as hold:
            async with self._smoothing.vote_images(chat.smoother, slots, plan, account, stages) as decoded:
                images, release = decoded

                def queued() -> None:
                    release()
                    hold(0)

                yield Ballot(chat, images, plan, form, queued)

    async def decide(
        self,
        ballot: Ballot,
        request_id: str,
        account: Account | None,
        stages: Stages,
        report: Report = unreported,
    ) -> tuple[Generation, IssuedAnswerCertificate]:
        """What most noisy copies answer, with its certificate. `report` takes the progress of the vote.

        Raises:
            PolicyNotMet: the plan enforces a radius in which the answer does not hold.
            NotReady: the sampler does not run, or the log cannot be written to.
            SmoothgateError: sampling or the engine failed.
        """
        began = time.perf_counter()
        smoother, plan = ballot.chat.smoother, ballot.plan
        asked = {
            name: value
            for name, value in ballot.form.apply(ballot.chat.body).items()
            if name not in ("stream", "stream_options")
        }
        question = await off_loop(question_of, asked, ballot.chat.slots, ballot.images)
        tokens = TokenMeter(longest_answer(asked), partial(self._gatekeeper.spend_tokens, account))
        ask = await self._asker(ballot, asked, request_id, tokens)
        with tokens.settled():
            decision = await self._voting.decide(
                smoother,
                ballot.images,
                plan,
                ask,
                commit=partial(self._commit, ballot, question),
                queued=ballot.queued,
                ends=self._smoothing.ends(),
                report=report,
            )
        stages.engine = time.perf_counter() - began
        metrics.STAGE_SECONDS.labels("engine").observe(stages.engine)
        stages.certify = stages.now()
        certificate = answer_certificate(
            decision,
            ballot.form,
            smoother,
            plan=plan,
            request_id=request_id,
            language_model_digest=await off_loop(self._language_model_digest),
            question=question,
        )
        issued = await self._issuer.issue_answer(certificate, decision.generations, account)
        if plan.enforce and not decision.certified:
            raise PolicyNotMet(
                f"The answer was to hold within a radius of {plan.terms.radius:g}, and that could not be "
                "certified.",
                {"answer_certificate": issued.model_dump(mode="json")},
            )
        return decision.served, issued

    async def _commit(
        self, ballot: Ballot, question: Question, images: Sequence[Relayed]
    ) -> Commitment | None:
        if self._log is None:
            return None
        smoother, plan = ballot.chat.smoother, ballot.plan
        request = answer_request(
            images=[one.certified.sha256 for one in images],
            model=smoother.model.digest,
            question=question,
            form=ballot.form.kind,
            pointer=ballot.form.pointer,
            sigma=plan.terms.sigma,
            n_select=plan.n_select,
            budget=plan.budget,
            alpha=plan.terms.alpha,
            target=plan.terms.radius,
        )
        seeds = [f"{one.seed:032x}" for one in images]
        (commitment,) = await self._log.commit([(request, seeds)], smoother.seeds.secret_digest)
        return commitment

    async def _asker(self, ballot: Ballot, asked: Json, request_id: str, tokens: TokenMeter) -> Asker:
        adapter = ballot.chat.smoother.encoder.adapter
        chat = ChatAsker(
            self._client,
            asked,
            ballot.chat.slots,
            ballot.images,
            adapter,
            ballot.form,
            request_id,
            tokens,
        )
        embeddings = None if adapter.list_token is None else await off_loop(self._text_embeddings)
        if adapter.list_token is None or embeddings is None:
            return chat
        lists = PromptLists(self._client, embeddings.rows, adapter.list_token[0], adapter.dtype)
        return ListAsker(chat, lists)

    @cache  # noqa: B019
    def _text_embeddings(self) -> TextEmbeddings | None:
        try:
            return TextEmbeddings(self._checkpoint)
        except (LookupError, OSError) as error:
            log.warning("noisy copies are asked about one by one", reason=str(error))
            return None

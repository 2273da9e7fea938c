"""The one way of a request, free of HTTP: a turn of a chat goes in, an answer with certificates comes out.

The images are found, admitted, decoded and sampled. Their served features replace them in the chat, and vLLM
answers while the certification samples are still being drawn. Whatever ends a request early (a failure, the
deadline, a client that has left) also ends its sampling and its work at vLLM.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from smoothgate import metrics, tracing
from smoothgate.certify.certificate import Binding, Certificate
from smoothgate.engine import EngineClient
from smoothgate.engine.answers import read_chunk, read_completion
from smoothgate.errors import MalformedRequest, PolicyNotMet, UnknownModel
from smoothgate.gate import chat_text
from smoothgate.gate.accounts import Account
from smoothgate.gate.binding import answer_of, question_of
from smoothgate.gate.certified_answers import Ballot, CertifiedAnswers, CleanedChat
from smoothgate.gate.chat_images import ImageSlot, with_images_replaced
from smoothgate.gate.chat_telemetry import ChatTelemetry
from smoothgate.gate.engine_fields import EngineFields, longest_answer
from smoothgate.gate.gatekeeper import Gatekeeper
from smoothgate.gate.image_smoothing import ImageSmoothing
from smoothgate.gate.issuing import Issuer, certificates_of
from smoothgate.gate.readiness import Readiness
from smoothgate.gate.request_timing import Stages, deadline, measured
from smoothgate.gate.visual_chat import visual_parts
from smoothgate.gate.voting import Progress, Report, unreported
from smoothgate.off_loop import off_loop
from smoothgate.sampling.smoother import Smoothed, Smoother
from smoothgate.schemas import IssuedAnswerCertificate, IssuedCertificate, SmoothingOptions
from smoothgate.vision import DecodedImage

Json = dict[str, Any]

# From the last token of a long stream to its certificates: they are known by then, and are bound and signed.
_SIGNING_SECONDS = 10.0

# Between two events that say how far a vote has come.
_PROGRESS_SECONDS = 0.1

#: Name of the tasks that make certificates while vLLM answers.
CERTIFYING = "certifying"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRequest:
    """Images that a client sends.

    Attributes:
        route: its name in the metrics.
        request_id: stands in certificates; sent along to vLLM.
        account: the client, where there are accounts.
        images: URIs or uploaded files.
        smoothing: the client's wishes.
    """

    route: str
    request_id: str
    account: Account | None
    images: Sequence[str | bytes] = ()
    smoothing: SmoothingOptions = field(default_factory=SmoothingOptions)


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn(ImageRequest):
    """A turn of a chat.

    Attributes:
        messages: the chat as the client sent it, in OpenAI's form, unchecked; it may hold images of its own.
            Where `images` come with it, they stand in front of the parts of the last message.
        messages_field: the field that `messages` came in, for errors.
        model: the name that the client asks for, if any.
        parameters: of vLLM; everything in its request but the model and the messages.
    """

    messages: Any
    messages_field: str = "messages"
    model: object = None
    parameters: Json = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """The smoothed features of one image.

    Attributes:
        vector: t (T * D,) float32, of length 1. The certificate bounds its cosine with the features of any
            other image.
        tokens: T, visual tokens.
        certificate: of the image.
    """

    vector: npt.NDArray[np.float32]
    tokens: int
    certificate: IssuedCertificate


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer.

    Attributes:
        completion: vLLM's JSON, as it came.
        text: of the answer.
        certificates: one per image; None: no features were certified.
        answer_certificate: None: the answer was not certified.
        usage: tokens, as vLLM counts them.
        stages: times.
    """

    completion: Json
    text: str
    certificates: list[IssuedCertificate] | None
    usage: Json
    stages: Stages
    answer_certificate: IssuedAnswerCertificate | None = None


@dataclass(frozen=True, slots=True)
class Replaced:
    """A turn that somebody else sends to vLLM.

    Attributes:
        body: of vLLM's request, with the visual tokens of the images in their place.
        certificates: one per image; None: no features were certified.
    """

    body: Json
    certificates: list[IssuedCertificate] | None


@dataclass(frozen=True, slots=True)
class Accepted:
    """The first event of a stream: all images are admitted and decoded, or without any, vLLM has accepted.

    Whatever is refused by then raises before it. Later refusals end the stream.

    Attributes:
        certified: whether `Certificates` will come.
    """

    certified: bool


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of a streamed answer.

    Attributes:
        chunk: vLLM's JSON, as it came.
        text: what it adds to the answer.
        ends_answer: whether a choice ends here, or only figures follow.
    """

    chunk: Json
    text: str
    ends_answer: bool


@dataclass(frozen=True, slots=True)
class Certificates:
    """The certificates of all images, once the answer that they name has ended."""

    issued: list[IssuedCertificate]


@dataclass(frozen=True, slots=True)
class Voted:
    """How far the vote on an answer has come, at most every `_PROGRESS_SECONDS`."""

    progress: Progress


@dataclass(frozen=True, slots=True)
class AnswerCertified:
    """The certificate of the whole answer, which has come in one piece."""

    issued: IssuedAnswerCertificate


@dataclass(frozen=True, slots=True)
class Finished:
    """The last event of a stream: tokens as vLLM counts them, and times."""

    usage: Json
    stages: Stages


Event = Accepted | Piece | Certificates | Voted | AnswerCertified | Finished


@dataclass(frozen=True, slots=True)
class _Admitted:
    """A turn whose images are decoded and, unless smoothing is off, queued at the sampler.

    Attributes:
        smoother: encodes the images.
        body: of vLLM's request, with an empty part in the place of each image.
        slots: these places.
        images: what belongs there.
        smoothed: the same at the sampler; empty: smoothing is off.
        certifying: makes the certificates meanwhile; None: no image is smoothed.
    """

    smoother: Smoother
    body: Json
    slots: Sequence[ImageSlot]
    images: Sequence[DecodedImage] = ()
    smoothed: Sequence[Smoothed] = ()
    certifying: asyncio.Task[list[Certificate]] | None = None


class Answering:
    """Answers turns of chats, and certifies images without a chat.

    Args:
        readiness: of the parts that an answer needs.
        smoothing: admits and samples images.
        issuer: signs certificates.
        client: of vLLM.
        model_name: as clients and vLLM know the model.
        timeout_seconds: the longest time to a whole answer, or to vLLM's acceptance of a streamed one. The
            certificates of a streamed one may come later only if the text does.
        gatekeeper: the limits of an account.
        fields: which parameters vLLM gets.
        max_text_characters: of a request, without its images.
        certified_answers: holds votes.
        language_model_digest: for certificates; may take long the first time.
    """

    def __init__(
        self,
        readiness: Readiness,
        smoothing: ImageSmoothing,
        issuer: Issuer,
        client: EngineClient,
        *,
        model_name: str,
        timeout_seconds: float,
        gatekeeper: Gatekeeper,
        fields: EngineFields,
        max_text_characters: int,
        certified_answers: CertifiedAnswers,
        language_model_digest: Callable[[], str | None],
    ) -> None:
        self._readiness = readiness
        self._smoothing = smoothing
        self._issuer = issuer
        self._client = client
        self._model_name = model_name
        self._timeout_seconds = timeout_seconds
        self._gatekeeper = gatekeeper
        self._fields = fields
        self._max_text_characters = max_text_characters
        self._certified_answers = certified_answers
        self._language_model_digest = language_model_digest

    async def answer(self, turn: Turn) -> Answer:
        """The whole answer to a turn.

        Raises:
            SmoothgateError: of any kind.
        """
        stages = Stages()
        telemetry = ChatTelemetry(turn.route, self._model_name)
        with measured(turn.route, telemetry.end):
            async with deadline(self._timeout_seconds):
                chat = await self._read(turn, self._readiness.require_all())
                if self._certifies_answer(turn, chat):
                    async with self._ballot(turn, chat, stages) as ballot:
                        certified = await self._certified(turn, ballot, stages)
                        telemetry.used(certified.usage)
                        return certified
                async with self._admitted(turn, chat, stages) as admitted:
                    body = await self._prepared(turn, admitted, stages)
                    sent = time.perf_counter()
                    try:
                        answer = await self._client.chat(body, turn.request_id)
                    except asyncio.CancelledError:
                        # vLLM does not say how far it came.
                        self._gatekeeper.spend_tokens(turn.account, longest_answer(body))
                        raise
                    _engine_done(stages, sent)
                    completion = read_completion(answer)
                    telemetry.used(completion.usage or {})
                    self._gatekeeper.spend_tokens(turn.account, _tokens(completion.usage))
                    certificates = await self._issued(turn, admitted, completion.texts)
        return Answer(answer, completion.text, certificates, completion.usage or {}, stages)

    async def stream(self, turn: Turn) -> AsyncGenerator[Event]:
        """The answer to a turn as it comes: `Accepted`, then each `Piece`, then `Certificates`, then
        `Finished`. Of an answer that is certified: `Voted` while its votes come, each `Piece`, then
        `AnswerCertified`, then `Finished`. Closing the generator ends all work on the turn.

        Raises:
            SmoothgateError: of any kind; before `Accepted`, nothing has been sent to the client yet. With
                images, a policy that is not met and a refusal by vLLM come after it.
        """
        stages = Stages()
        usage: Json = {}
        telemetry = ChatTelemetry(turn.route, self._model_name)
        with measured(turn.route, telemetry.end):
            async with AsyncExitStack() as stack:
                ballot = None
                async with deadline(self._timeout_seconds):
                    chat = await self._read(turn, self._readiness.require_all())
                    if self._certifies_answer(turn, chat):
                        ballot = await stack.enter_async_context(self._ballot(turn, chat, stages))
                    else:
                        admitted = await stack.enter_async_context(self._admitted(turn, chat, stages))
                if ballot is not None:
                    yield Accepted(certified=True)
                    async with self._deciding(turn, ballot, stages) as (progress, deciding):
                        while (latest := await progress.get()) is not None:
                            yield Voted(latest)
                        answer = await deciding
                    telemetry.text()
                    telemetry.used(answer.usage)
                    for piece in _pieces(answer, _asks_for_usage(ballot.chat.body)):
                        yield piece
                    assert answer.answer_certificate is not None  # noqa: S101
                    yield AnswerCertified(answer.answer_certificate)
                    yield Finished(answer.usage, stages)
                    return
                if admitted.slots:
                    yield Accepted(certified=admitted.certifying is not None)
                async with deadline(self._timeout_seconds, spent=stages.now()):
                    body = await self._prepared(turn, admitted, stages)
                    sent = time.perf_counter()
                    shows_usage = _asks_for_usage(body)
                    chunks = await self._client.stream(body, turn.request_id)
                    await stack.enter_async_context(chunks)
                pieces = 0
                stack.callback(lambda: self._gatekeeper.spend_tokens(turn.account, _tokens(usage) or pieces))
                if not admitted.slots:
                    yield Accepted(certified=False)
                first = True
                texts: dict[int, list[str]] = {}
                async for chunk in chunks:
                    pieces += 1
                    if first:
                        metrics.STAGE_SECONDS.labels("engine_first_token").observe(time.perf_counter() - sent)
                        first = False
                    read = read_chunk(chunk)
                    usage = read.usage or usage
                    if read.text:
                        telemetry.text()
                    for index, text in read.added:
                        texts.setdefault(index, []).append(text)
                    if shows_usage or chunk.get("choices") or not read.usage:
                        yield Piece(chunk, read.text, read.ends_answer)
                _engine_done(stages, sent)
                telemetry.used(usage)
                whole = ["".join(texts[index]) for index in sorted(texts)]
                # An answer may take longer than the limit. Its certificates are then only to be signed.
                spent = min(stages.now(), self._timeout_seconds - _SIGNING_SECONDS)
                async with deadline(self._timeout_seconds, spent=spent):
                    issued = await self._issued(turn, admitted, whole)
                if issued is not None:
                    yield Certificates(issued)
                yield Finished(usage, stages)

    @asynccontextmanager
    async def sampled(self, request: ImageRequest) -> AsyncIterator[list[Smoothed]]:
        """The images of a request on their way through the sampler; sampling ends with the block.

        Raises:
            MalformedRequest: there is no image, or smoothing is switched off.
            SmoothgateError: of any kind.
        """
        with measured(request.route):
            async with deadline(self._timeout_seconds):
                smoother = self._readiness.require_smoother()
                slots = [ImageSlot(0, i, source, f"images.{i}") for i, source in enumerate(request.images)]
                if not slots:
                    raise MalformedRequest("There is no image to certify.", param="images")
                _refuse_answer_options(request.smoothing)
                if request.smoothing.mode == "off":
                    raise MalformedRequest(
                        "There is nothing to certify with smoothing off.", param="smoothing.mode"
                    )
                async with self._smoothing.admitted(
                    smoother, slots, request.smoothing, request.account, Stages()
                ) as images:
                    yield images

    async def certify(self, request: ImageRequest) -> list[IssuedCertificate]:
        """The certificates of images, without asking vLLM anything; raises as `sampled`."""
        async with self.sampled(request) as images:
            certificates = await certificates_of(images)
            binding = Binding(request.request_id)
            return await self._issuer.issue(images, certificates, binding, request.account)

    async def features(self, request: ImageRequest) -> list[Features]:
        """The smoothed features of images with their certificates; raises as `sampled`."""
        async with self.sampled(request) as images:
            directions = [await image.direction() for image in images]
            certificates = await certificates_of(images)
            binding = Binding(request.request_id)
            issued = await self._issuer.issue(images, certificates, binding, request.account)
        tokens = self._readiness.require_smoother().encoder.served_tokens
        return [
            Features(direction.numpy(), tokens(direction).shape[0], certificate)
            for direction, certificate in zip(directions, issued, strict=True)
        ]

    async def replaced(self, turn: Turn) -> Replaced:
        """The request of a turn as vLLM may see it, for whoever sends it there: vLLM is not asked.

        The certificates name the question and no answer. Of the account's tokens it takes the longest answer
        that the request allows.

        Raises:
            SmoothgateError: of any kind.
        """
        stages = Stages()
        with measured(turn.route):
            async with deadline(self._timeout_seconds):
                _refuse_answer_options(turn.smoothing)
                chat = await self._read(turn, self._readiness.require_smoother())
                async with self._admitted(turn, chat, stages) as admitted:
                    body = await self._prepared(turn, admitted, stages)
                    certificates = await self._issued(turn, admitted, None)
        self._gatekeeper.spend_tokens(turn.account, longest_answer(body))
        return Replaced(body, certificates)

    async def _read(self, turn: Turn, smoother: Smoother) -> CleanedChat:
        """A turn as vLLM may see it, without its images."""
        self._gatekeeper.require_tokens(turn.account)
        if turn.model not in (None, "", self._model_name):
            raise UnknownModel(f"The model served here is {self._model_name}.", param="model")
        placeholders = smoother.encoder.adapter.placeholders
        messages, slots, parameters = await off_loop(
            chat_text.cleaned,
            turn.messages,
            turn.messages_field,
            turn.images,
            self._fields.checked(turn.parameters),
            placeholders,
            self._max_text_characters,
        )
        if slots and turn.parameters.get("truncate_prompt_tokens") is not None:
            raise MalformedRequest(
                "A prompt with images cannot be truncated.",
                param="truncate_prompt_tokens",
                code="unsupported",
            )
        body = parameters | {"model": self._model_name, "messages": messages}
        if turn.account is not None:
            body["cache_salt"] = turn.account.cache_salt
        return CleanedChat(smoother, body, slots)

    def _ballot(self, turn: Turn, chat: CleanedChat, stages: Stages) -> AbstractAsyncContextManager[Ballot]:
        return self._certified_answers.ballot(
            chat, turn.smoothing, turn.parameters, turn.messages, turn.account, stages
        )

    @asynccontextmanager
    async def _deciding(
        self, turn: Turn, ballot: Ballot, stages: Stages
    ) -> AsyncIterator[tuple[asyncio.Queue[Progress | None], asyncio.Task[Answer]]]:
        """A vote under way, with its progress: None when it has ended. It ends with the block."""
        progress: asyncio.Queue[Progress | None] = asyncio.Queue()
        told = -_PROGRESS_SECONDS
        held: Progress | None = None

        def report(latest: Progress) -> None:
            nonlocal told, held
            held = latest
            if (now := time.monotonic()) - told >= _PROGRESS_SECONDS:
                told, held = now, None
                progress.put_nowait(latest)

        def ended(_: object) -> None:
            if held is not None:
                progress.put_nowait(held)
            progress.put_nowait(None)

        async def decided() -> Answer:
            async with deadline(self._timeout_seconds, spent=stages.now()):
                return await self._certified(turn, ballot, stages, report)

        deciding = asyncio.create_task(decided(), name=CERTIFYING)
        deciding.add_done_callback(ended)
        try:
            yield progress, deciding
        finally:
            deciding.cancel()
            await asyncio.wait([deciding])

    async def _certified(
        self, turn: Turn, ballot: Ballot, stages: Stages, report: Report = unreported
    ) -> Answer:
        served, issued = await self._certified_answers.decide(
            ballot, turn.request_id, turn.account, stages, report
        )
        usage = read_completion(served.completion).usage or {}
        return Answer(served.completion, served.text, None, usage, stages, issued)

    def _certifies_answer(self, turn: Turn, chat: CleanedChat) -> bool:
        votes = self._smoothing.certifies_answer(turn.smoothing)
        return votes and bool(chat.slots) and turn.smoothing.mode != "off"

    @asynccontextmanager
    async def _admitted(self, turn: Turn, chat: CleanedChat, stages: Stages) -> AsyncIterator[_Admitted]:
        """A turn as soon as its images are on their way; sampling ends with the block."""
        smoother, body, slots = chat.smoother, chat.body, chat.slots
        if not slots:
            yield _Admitted(smoother, body, slots)
        elif turn.smoothing.mode == "off":
            yield _Admitted(smoother, body, slots, await self._smoothing.unsmoothed(slots, stages))
        else:
            async with self._smoothing.admitted(
                smoother, slots, turn.smoothing, turn.account, stages
            ) as smoothed:
                certifying = _certify_meanwhile(smoothed, stages)
                images = [one.image for one in smoothed]
                try:
                    yield _Admitted(smoother, body, slots, images, smoothed, certifying)
                finally:
                    certifying.cancel()

    async def _prepared(self, turn: Turn, admitted: _Admitted, stages: Stages) -> Json:
        """The request as vLLM may see it, once the served features are known.

        Raises:
            PolicyNotMet: the plan enforces a policy that the images do not meet.
        """
        if not admitted.slots:
            return admitted.body
        encoder = admitted.smoother.encoder
        if admitted.certifying is None:
            tokens = [await off_loop(encoder.raw_tokens, image) for image in admitted.images]
        else:
            with tracing.stage("select"):
                tokens = [await image.tokens() for image in admitted.smoothed]
            if admitted.smoothed[0].plan.enforce:
                await self._require_certified(turn, admitted, await admitted.certifying)
        stages.select = stages.now()
        parts = [
            await visual_parts(encoder.adapter, image_tokens, image.height, image.width)
            for image_tokens, image in zip(tokens, admitted.images, strict=True)
        ]
        messages = with_images_replaced(admitted.body["messages"], admitted.slots, parts)
        return admitted.body | {"messages": messages}

    async def _require_certified(
        self, turn: Turn, admitted: _Admitted, certificates: Sequence[Certificate]
    ) -> None:
        target = admitted.smoothed[0].plan.target
        missed = sum(certificate.outcome != "certified" for certificate in certificates)
        if missed and target is not None:
            issued = await self._issued(turn, admitted, None)
            raise PolicyNotMet(
                f"A cosine of {target.cosine:g} at {target.eps:g} was to be certified; "
                f"{missed} of {len(certificates)} images missed it, and the language model was not asked.",
                {"certificates": [certificate.model_dump(mode="json") for certificate in issued or ()]},
            )

    async def _issued(
        self, turn: Turn, admitted: _Admitted, texts: Sequence[str] | None
    ) -> list[IssuedCertificate] | None:
        """The certificates, bound to question and answer; None: no image is smoothed.

        Args:
            turn: gives the request.
            admitted: its images.
            texts: of the answer's choices; None: the language model was not asked.
        """
        if admitted.certifying is None:
            return None
        binding = Binding(
            turn.request_id,
            await off_loop(self._language_model_digest),
            await off_loop(question_of, admitted.body, admitted.slots, admitted.images),
            None if texts is None else await off_loop(answer_of, texts),
        )
        return await self._issuer.issue(admitted.smoothed, await admitted.certifying, binding, turn.account)


def _refuse_answer_options(options: SmoothingOptions) -> None:
    if options.certify == "answer" or options.answer is not None:
        raise MalformedRequest(
            "There is no answer to certify: the language model is not asked here.", param="smoothing.certify"
        )


def _certify_meanwhile(smoothed: Sequence[Smoothed], stages: Stages) -> asyncio.Task[list[Certificate]]:
    async def certify() -> list[Certificate]:
        certificates = await certificates_of(smoothed)
        stages.certify = stages.now()
        return certificates

    task = asyncio.create_task(certify(), name=CERTIFYING)
    # A request that has failed already never asks for the failure of this task.
    task.add_done_callback(lambda done: None if done.cancelled() else done.exception())
    return task


def _pieces(answer: Answer, shows_usage: bool) -> Iterator[Piece]:
    """A whole answer as the pieces of a stream."""
    whole = answer.completion
    head: Json = {key: whole[key] for key in ("id", "created", "model") if key in whole}
    head["object"] = "chat.completion.chunk"
    choice = whole["choices"][0]
    delta = {"role": "assistant", "content": answer.text}
    reason = choice.get("finish_reason")
    yield Piece(head | {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}, answer.text, False)
    yield Piece(head | {"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]}, "", True)
    if shows_usage:
        yield Piece(head | {"choices": [], "usage": answer.usage}, "", True)


def _engine_done(stages: Stages, sent: float) -> None:
    stages.engine = time.perf_counter() - sent
    metrics.STAGE_SECONDS.labels("engine").observe(stages.engine)


def _asks_for_usage(body: Json) -> bool:
    """Whether the client wants the usage at the end of its stream. vLLM is asked for it in any case."""
    options = body.get("stream_options")
    if options is None or (isinstance(options, dict) and not options.get("include_usage")):
        body["stream_options"] = (options or {}) | {"include_usage": True}
        return False
    return True


def _tokens(usage: Json | None) -> int:
    total = (usage or {}).get("total_tokens")
    return total if isinstance(total, int) else 0

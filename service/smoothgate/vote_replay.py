"""The votes of a certified answer asked again, for `smoothgate verify --engine`.

The recorded noise is drawn again, and the language model is asked about each noisy copy in the same words. A
certificate has the numbers of votes and not each vote, so numbers are compared. If only a share of the
counted votes is asked again, the verifier draws at random which ones. The comparison is then a test: a
certificate fails if votes like these have a probability below one in a thousand.

The last bits of features and of the language model's numbers differ between machines and between batches, so
a vote near a tie may fall the other way. `_DIFFERING` says how many may.
"""

from __future__ import annotations

import asyncio
import math
import secrets
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from pydantic import ValidationError
from scipy import stats
from torch import Tensor

from smoothgate.certify.answer_certificate import AnswerCertificate, sha256
from smoothgate.certify.signing import CertificateRejected, verify
from smoothgate.certify.votes import Candidates, Tally
from smoothgate.engine import EngineClient
from smoothgate.errors import MalformedRequest
from smoothgate.gate import chat_text
from smoothgate.gate.answer_form import AnswerForm, answer_form
from smoothgate.gate.answering import Turn
from smoothgate.gate.asking import ChatAsker
from smoothgate.gate.binding import question_of
from smoothgate.gate.chat_images import ImageSlot
from smoothgate.gate.engine_fields import LEFT_OUT, EngineFields
from smoothgate.gate.served_model import checkpoint_digest
from smoothgate.gate.token_meter import TokenMeter
from smoothgate.gate.voting import Generation, Sample
from smoothgate.http import chat_route, error_responses, messages_request, openai_routes, responses_request
from smoothgate.psm.unit_encoder import UnitEncoder
from smoothgate.sampling import noise
from smoothgate.sampling.draw import draw, numbered_noise
from smoothgate.sampling.replay import Watch
from smoothgate.schemas import AnswerOptions, ChatRequest
from smoothgate.verification import Check
from smoothgate.vision import DecodedImage, decode

Json = dict[str, Any]

# Of the votes of a split, at least one.
_DIFFERING = 0.02
_IMPROBABLE = 0.001
_BATCH = 32
_LARGEST = 1_000_000_000


@dataclass(frozen=True, slots=True)
class AskedQuestion:
    """A question as the language model got it.

    Attributes:
        body: of vLLM's request, with an empty part in the place of each image.
        slots: these places.
        form: in which answers are compared.
    """

    body: Json
    slots: Sequence[ImageSlot]
    form: AnswerForm

    @classmethod
    def of(cls, request: Any, model_name: str, placeholders: Collection[str]) -> AskedQuestion:
        """Read a request as the service reads it. Its limits are not known here and do not apply.

        Args:
            request: the JSON body that was sent to `/v1/chat`, `/v1/chat/completions`, `/v1/responses` or
                `/v1/messages`.
            model_name: as vLLM knows the model.
            placeholders: of images, in the tokenizer.

        Raises:
            SmoothgateError: it is no such request.
        """
        if not isinstance(request, dict):
            raise MalformedRequest("The question must be a JSON object.")
        turn = _turn_of(request)
        further = set(turn.parameters) - LEFT_OUT - {"modalities"}
        fields = EngineFields(further, max_choices=sys.maxsize, max_tokens=None, max_logprobs=sys.maxsize)
        messages, slots, parameters = chat_text.cleaned(
            turn.messages,
            turn.messages_field,
            turn.images,
            fields.checked(turn.parameters),
            placeholders,
            sys.maxsize,
        )
        form = answer_form(turn.smoothing.answer or AnswerOptions(), turn.parameters, turn.messages)
        return cls(form.apply(parameters | {"model": model_name, "messages": messages}), slots, form)


def check_votes(
    jws: str,
    key_set: Mapping[str, Any],
    images: Sequence[bytes],
    request: Any,
    load_encoder: Callable[[int | None], UnitEncoder],
    client: EngineClient,
    *,
    checkpoint: str,
    share: float,
    max_samples: int,
    watch: Watch = lambda numbers, total: numbers,
) -> Iterator[Check]:
    """Ask again what the votes of an answer rest on, and compare.

    Args:
        jws: the signed certificate of an answer.
        key_set: a JWKS.
        images: the uploaded files.
        request: as `AskedQuestion.of` takes it.
        load_encoder: as `smoothgate.verification.check` takes it.
        client: of a vLLM that serves the same language model. It is closed at the end.
        checkpoint: of the model, as the verifier has it.
        share: of the counted votes that are asked again, above 0 and at most 1. All of the selection are.
        max_samples: most noisy copies that are drawn.
        watch: is given the numbers of the samples, in the order in which they are asked about.

    Raises:
        SmoothgateError: the request cannot be read, or the engine fails.
    """
    try:
        certificate = verify(jws, key_set)
    except CertificateRejected as error:
        yield Check("votes asked again", False, f"{error.code}: {error}")
        return
    if not isinstance(certificate, AnswerCertificate):
        yield Check("votes asked again", False, "this is no certificate of an answer")
        return
    encoder = load_encoder(certificate.model.max_canvas_pixels)
    same = encoder.digest == certificate.model.digest
    yield Check("model", same, "the one certified" if same else f"another one: {encoder.digest}")
    digest = checkpoint_digest(checkpoint)
    as_recorded = digest == certificate.model.language_model_digest
    yield Check(
        "language model", as_recorded, "the one certified" if as_recorded else f"another one: {digest}"
    )
    if not same or len(images) != len(certificate.images):
        yield Check("votes asked again", False, "this needs the model and all pictures of the request")
        return
    decoded = [decode(image, max_pixels=_LARGEST) for image in images]
    asked = AskedQuestion.of(request, certificate.model.name, encoder.adapter.placeholders)
    right = len(asked.slots) == len(decoded)
    right = right and question_of(asked.body, asked.slots, decoded) == certificate.question
    right = right and (asked.form.kind, asked.form.pointer) == (
        certificate.answer.form,
        certificate.answer.pointer,
    )
    yield Check("question", right, "the one certified" if right else "another one than was certified")
    if not right:
        return
    chosen = _chosen(certificate.selection.tally.n, certificate.votes.tally.n, share)
    if len(chosen) > max_samples:
        yield Check(
            "votes asked again", False, f"{len(chosen)} samples are more than are drawn here: {max_samples}"
        )
        return
    generations = asyncio.run(_generations(certificate, decoded, asked, encoder, client, chosen, watch))
    yield from _compared(certificate, generations)


def _chosen(selection: int, votes: int, share: float) -> list[int]:
    """The numbers of the samples that are asked about again, ascending."""
    drawn = secrets.SystemRandom().sample(range(votes), math.ceil(share * votes))
    return [*range(selection), *sorted(selection + number for number in drawn)]


async def _generations(
    certificate: AnswerCertificate,
    images: Sequence[DecodedImage],
    asked: AskedQuestion,
    encoder: UnitEncoder,
    client: EngineClient,
    chosen: Sequence[int],
    watch: Watch,
) -> list[Generation]:
    """The answer to each of these samples, in order."""
    tokens = TokenMeter(None, lambda _: None)
    ask = ChatAsker(client, asked.body, asked.slots, images, encoder.adapter, asked.form, "verify", tokens)
    generations: list[Generation] = []
    try:
        following = iter(watch(chosen, len(chosen)))
        while batch := list(islice(following, _BATCH)):
            samples = _drawn(certificate, images, encoder, batch)
            generations += await ask(samples)
    finally:
        await client.aclose()
    return generations


@torch.no_grad()
def _drawn(
    certificate: AnswerCertificate,
    images: Sequence[DecodedImage],
    encoder: UnitEncoder,
    numbers: Sequence[int],
) -> list[Sample]:
    """The visual tokens of each image in each of these samples."""
    recorded = certificate.noise
    source = noise.generator_named(recorded.generator)
    under_seed = [noise.sample_number(number, certificate.selection.tally.n) for number in numbers]
    tokens: list[list[Tensor]] = []
    for image, voted in zip(images, certificate.images, strict=True):
        canvas = encoder.adapter.canvas(image)
        (units,) = draw(
            encoder.units,
            canvas.x.to(encoder.adapter.device),
            recorded.sigma,
            numbered_noise(source, int(voted.seed, 16), under_seed),
            len(numbers),
            batch=len(numbers),
            layout=canvas.layout,
        )
        tokens.append([encoder.served_tokens(unit) for unit in units])
    return [(number, list(of_sample)) for number, *of_sample in zip(numbers, *tokens, strict=True)]


def _compared(certificate: AnswerCertificate, generations: Sequence[Generation]) -> Iterator[Check]:
    selection, votes = certificate.selection.tally, certificate.votes.tally
    selected = generations[: selection.n]
    candidates = Candidates.of([one.canonical for one in selected])
    if candidates.answer != certificate.answer.canonical:
        yield Check("selection asked again", False, f"the most frequent answer is {candidates.answer!r}")
        return
    yield Check(
        "selection asked again",
        _like(candidates.votes, selection),
        f"{candidates.votes.hits} of {selection.n} give the answer, {selection.hits} certified",
    )
    sent = certificate.answer.text_sha256 in {sha256(one.text) for one in selected}
    yield Check(
        "text sent", sent, "one of the selection's" if sent else "no sample of the selection gives it"
    )
    if votes.n:
        again = generations[selection.n :]
        counted = candidates.tally([one.canonical for one in again])
        yield Check(
            "votes asked again",
            _like(counted, votes),
            f"{len(again)} of {votes.n}: {counted.hits} give the answer, {counted.runner_up} the runner-up, "
            f"{counted.rest} neither; {votes.hits}, {votes.runner_up}, {votes.rest} certified",
        )
    yield Check(
        "on trust",
        True,
        "that the engine serves this language model, that the seeds follow from the service's secret, "
        "request_id and time",
    )


def _like(here: Tally, certified: Tally) -> bool:
    """Whether the votes here may be a random part of those certified, but for a few that differ.

    Only what makes a certificate say more counts: too many hits, too few votes for others.
    """
    n = certified.n
    few = max(1, math.floor(_DIFFERING * n))
    hits = max(certified.hits - few, 0)
    probabilities = [stats.hypergeom.cdf(here.hits, n, hits, here.n)]
    for found, stated in ((here.runner_up, certified.runner_up), (here.rest, certified.rest)):
        probabilities.append(stats.hypergeom.sf(found - 1, n, min(stated + few, n), here.n))
    return bool(min(probabilities) >= _IMPROBABLE)


def _turn_of(request: Json) -> Turn:
    """A request by its form. In Messages alone, a picture is of type `image`."""
    if "message" in request:
        try:
            body = ChatRequest.model_validate(request)
        except ValidationError as error:
            raise error_responses.of_validation(error.errors(), ChatRequest) from error
        return chat_route.turn_of(body, [], None, "")
    if "input" in request:
        return responses_request.turn_of(request, None, "").turn
    if any(part.get("type") == "image" for part in _parts(request)):
        return messages_request.turn_of(request, None, "").turn
    return openai_routes.turn_of(request, None, "")


def _parts(request: Json) -> Iterator[Json]:
    messages = request.get("messages")
    for message in messages if isinstance(messages, list) else ():
        content = message.get("content") if isinstance(message, dict) else None
        yield from (part for part in (content if isinstance(content, list) else ()) if isinstance(part, dict))

"""Puts a service together from its settings: the one place of the gate that knows them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from smoothgate import metrics
from smoothgate.bundled import bundled
from smoothgate.certify.statement import Target
from smoothgate.engine import (
    Engine,
    EngineState,
    EngineStatus,
    LocalEngine,
    MediaCheck,
    NoEngine,
    RemoteEngine,
    Supervision,
    VLLMOptions,
)
from smoothgate.errors import SmoothgateError
from smoothgate.gate.admission import Admission
from smoothgate.gate.answering import Answering
from smoothgate.gate.canary import Canary, canary_plan
from smoothgate.gate.certificate_store import CertificateStore
from smoothgate.gate.certified_answers import CertifiedAnswers
from smoothgate.gate.commitment_log import CommitmentLog
from smoothgate.gate.description import Description
from smoothgate.gate.engine_fields import EngineFields
from smoothgate.gate.fleet_limits import redis_limits
from smoothgate.gate.gatekeeper import Gatekeeper
from smoothgate.gate.generations import Generations
from smoothgate.gate.health import Health
from smoothgate.gate.image_decoding import ImageDecoder
from smoothgate.gate.image_fetcher import Fetcher
from smoothgate.gate.image_smoothing import ImageSmoothing
from smoothgate.gate.in_flight import InFlight
from smoothgate.gate.issuing import Issuer
from smoothgate.gate.policy import OperatorPolicy
from smoothgate.gate.readiness import Readiness
from smoothgate.gate.served_model import ServedModel, checkpoint_digest
from smoothgate.gate.service import Service
from smoothgate.gate.smoother_loading import SmootherLoading, load_noise_seeds
from smoothgate.gate.supervised_smoother import SupervisedSmoother
from smoothgate.gate.visual_chat import VisualQuestions
from smoothgate.gate.voting import Voting
from smoothgate.logs import get_logger
from smoothgate.psm.calibration import require_calibration
from smoothgate.sampling.smoother import Smoother
from smoothgate.settings import PREFIX, Settings
from smoothgate.vision import devices_named, family_of, require_checkpoint

# Sampling ends early enough that the certificate can still be made and sent.
_SAMPLING_SHARE = 0.8

log = get_logger("gate")


def build(
    settings: Settings,
    *,
    engine: Engine | None = None,
    load_smoother: Callable[[], Smoother] | None = None,
) -> Service:
    """A service, not started.

    Args:
        settings: of the process.
        engine: instead of the one that the settings name.
        load_smoother: makes the smoother, instead of one over the encoder that the settings name.

    Raises:
        SmoothgateError: a setting cannot be used: accounts, keys, noise secret, hosts, the model or its PSM.
    """
    model = _model(settings)
    if settings.accounts is None:
        log.warning("no accounts are set: whoever can connect may ask", host=settings.host)
    policy = _policy(settings)
    url = settings.limits_url
    fleet = None if url is None else redis_limits(url.get_secret_value())
    with _setting("accounts"):
        gatekeeper = Gatekeeper(settings.accounts, fleet=fleet)
    in_flight = InFlight(settings.max_requests)
    commitments = _commitments(settings)
    issuer = Issuer(settings.signing_key_file, settings.retired_keys, _store(settings), commitments)
    engine = engine or _engine(settings, model)
    smoother = (
        _smoother(settings, model, engine) if load_smoother is None else SupervisedSmoother(load_smoother)
    )
    readiness = Readiness(engine, smoother)
    questions = VisualQuestions(engine.client, model.name)
    canary = _canary(settings, readiness, engine, questions) if settings.canary_seconds else None
    decoder = ImageDecoder(
        _fetcher(settings),
        max_bytes=settings.max_image_bytes,
        max_pixels=settings.max_image_pixels,
        seconds=settings.decode_timeout_seconds,
    )
    smoothing = ImageSmoothing(
        policy,
        Admission(settings.max_queued_seconds, settings.degrade),
        gatekeeper,
        decoder,
        max_images=settings.max_images,
        sampling_seconds=_SAMPLING_SHARE * settings.request_timeout_seconds,
        log=commitments,
    )
    digest = _language_model_digest(settings, model)
    answering = Answering(
        readiness,
        smoothing,
        issuer,
        engine.client,
        model_name=model.name,
        timeout_seconds=settings.request_timeout_seconds,
        gatekeeper=gatekeeper,
        fields=EngineFields(
            settings.engine_fields,
            max_choices=settings.max_choices,
            max_tokens=settings.max_tokens,
            max_logprobs=settings.max_logprobs,
        ),
        max_text_characters=settings.max_text_characters,
        certified_answers=CertifiedAnswers(
            smoothing,
            Voting(Generations(settings.votes_in_flight)),
            Admission(settings.max_queued_seconds, work="generations", reserved=metrics.RESERVED_GENERATIONS),
            issuer,
            engine.client,
            gatekeeper,
            checkpoint=model.checkpoint,
            language_model_digest=digest,
            log=commitments,
        ),
        language_model_digest=digest,
    )
    return Service(
        model=model,
        engine=engine,
        smoother=smoother,
        readiness=readiness,
        canary=canary,
        health=Health(readiness, decoder, in_flight, canary, commitments),
        gatekeeper=gatekeeper,
        in_flight=in_flight,
        policy=policy,
        decoder=decoder,
        smoothing=smoothing,
        issuer=issuer,
        commitments=commitments,
        questions=questions,
        answering=answering,
        description=Description(smoother, policy, _limits(settings), digest),
    )


def _limits(s: Settings) -> dict[str, int | None]:
    names = (
        "max_body_bytes",
        "max_choices",
        "max_image_bytes",
        "max_image_pixels",
        "max_images",
        "max_logprobs",
        "max_text_characters",
        "max_tokens",
    )
    return {name: getattr(s, name) for name in names}


@contextmanager
def _setting(name: str) -> Iterator[None]:
    """Failures in here are said to be those of a setting."""
    try:
        yield
    except SmoothgateError as error:
        raise SmoothgateError(f"{PREFIX}{name.upper()}: {error.message}", code=error.code) from error
    except ValueError as error:
        raise SmoothgateError(f"{PREFIX}{name.upper()}: {error}", code=f"bad_{name}") from error


def _model(s: Settings) -> ServedModel:
    if s.model is not None and bundled(s.model) is None:
        with _setting("model"):
            require_checkpoint(s.model)
            family_of(s.model)
    if s.psm is not None:
        with _setting("psm"):
            require_calibration(s.psm)
    with _setting("device"):
        devices_named(s.device)
    return ServedModel.of(
        s.model,
        name=s.served_model_name,
        psm=s.psm,
        device=s.device,
        dtype=s.dtype,
        revision=s.model_revision,
    )


def _policy(s: Settings) -> OperatorPolicy:
    target = None
    if s.policy_cosine is not None and s.policy_eps is not None:
        target = Target(s.policy_cosine, s.policy_eps)
    return OperatorPolicy(
        sigma=s.sigma,
        sigma_min=s.sigma_min,
        sigma_max=s.sigma_max,
        n_select=s.n_select,
        n_certify=s.n_certify,
        max_samples=s.max_samples,
        alpha=s.alpha,
        eps=s.eps,
        cosines=s.cosines,
        cosine_threshold=s.cosine_threshold,
        target=target,
        enforce=s.policy == "enforce",
        allow_off=s.allow_smoothing_off,
        certify=s.certify,
        radius=s.policy_radius,
        n_select_answer=s.n_select_answer,
    )


def _language_model_digest(s: Settings, model: ServedModel) -> Callable[[], str | None]:
    if s.engine == "none":
        return lambda: None
    return partial(checkpoint_digest, model.checkpoint)


def _store(s: Settings) -> CertificateStore | None:
    if s.store is None:
        return None
    try:
        return CertificateStore(s.store, max_bytes=s.store_max_bytes, files=s.store_files)
    except OSError as error:
        raise SmoothgateError(
            f"SMOOTHGATE_STORE: the folder {s.store} cannot be used: {error.strerror}.", code="bad_store"
        ) from error


def _commitments(s: Settings) -> CommitmentLog | None:
    if s.store is None:
        metrics.LOG_UP.set(math.nan)
        return None
    return CommitmentLog(s.store)


def _engine(s: Settings, model: ServedModel) -> Engine:
    if s.engine == "none":
        metrics.ENGINE_UP.set(math.nan)
        return NoEngine()
    observed = _EngineMetrics()
    limits = family_of(model.checkpoint).engine_limits
    check = MediaCheck(model.name, [kind for kind in ("image", "video") if not limits.get(kind)])
    if s.engine_url is not None:
        key = s.engine_api_key.get_secret_value() if s.engine_api_key else None
        return RemoteEngine(
            s.engine_url,
            check,
            api_key=key,
            read_timeout=s.engine_read_timeout_seconds,
            keepalive=s.engine_keepalive_seconds,
            on_change=observed.update,
        )
    family = family_of(model.checkpoint)
    options = VLLMOptions(
        model=model.checkpoint,
        served_model_name=model.name,
        dtype=model.dtype_name,
        max_model_len=s.engine_max_model_len,
        kv_cache_gib=s.engine_kv_cache_gib,
        drain_seconds=s.shutdown_timeout_seconds,
        tracing_url=s.tracing_url,
        # A limit above 0 is that of the images of a request.
        media_limits={kind: s.max_images if limit else 0 for kind, limit in family.engine_limits.items()},
        prompt_embeds=family.part_type == "prompt_embeds" or family.prompt_lists,
        extra_args=s.engine_args,
    )
    try:
        return LocalEngine(
            options,
            Supervision(start_timeout=s.engine_start_timeout_seconds),
            check=check,
            read_timeout=s.engine_read_timeout_seconds,
            on_change=observed.update,
        )
    except ValueError as error:
        raise SmoothgateError(str(error), code="bad_engine") from error


class _EngineMetrics:
    def __init__(self) -> None:
        self._restarts = 0

    def update(self, status: EngineStatus) -> None:
        metrics.ENGINE_UP.set(status.state is EngineState.READY)
        metrics.ENGINE_RESTARTS.inc(status.restarts - self._restarts)
        self._restarts = status.restarts


def _smoother(s: Settings, model: ServedModel, engine: Engine) -> SupervisedSmoother:
    loading = SmootherLoading(
        model,
        sigma=s.sigma,
        seeds=load_noise_seeds(s.noise_secret_file),
        threads=s.threads,
        batch_size=s.batch_size,
        cache_bytes=s.cache_mib * 2**20,
        max_canvas_pixels=s.max_canvas_pixels,
    )

    def load() -> Smoother:
        if s.engine != "none":
            checkpoint_digest(model.checkpoint)  # reads all weights once, before the first request
        return loading.load()

    quiet = engine.settled if engine.on_this_machine else None
    return SupervisedSmoother(load, loading.make_sampler, quiet)


def _canary(s: Settings, readiness: Readiness, engine: Engine, questions: VisualQuestions) -> Canary:
    plan = canary_plan(s.sigma, s.eps, s.cosine_threshold)
    return Canary(
        readiness, engine, questions, plan, tolerance=s.canary_tolerance, pause_seconds=s.canary_seconds
    )


def _fetcher(s: Settings) -> Fetcher | None:
    if not s.url_hosts:
        return None
    with _setting("url_hosts"):
        return Fetcher(s.url_hosts, max_bytes=s.max_image_bytes, timeout=s.url_timeout_seconds)

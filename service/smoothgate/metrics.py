"""All metrics of the service and their buckets.

Names follow Prometheus' rules: a prefix, a base unit, and `_total` for counters. Buckets grow geometrically,
because latencies and numbers of samples span three decades and more.
"""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram, Info

# 5 ms (a cached text answer on a GPU) to 2.5 minutes (the longest generation worth waiting for), factor 2.
LATENCY_BUCKETS = tuple(0.005 * 2**i for i in range(16))
# 16 to 65,536 samples, factor 2: from the smallest n_select to the largest budget for a certificate.
SAMPLE_BUCKETS = tuple(float(2**i) for i in range(4, 17))
# Most scores are near 1, so the buckets are narrower there.
SCORE_BUCKETS = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.925, 0.95, 0.9625, 0.975, 0.9875, 0.99, 0.995, 1.0)
RADIUS_BUCKETS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0)
FILL_BUCKETS = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 1.0)
# 250 ms is the longest that any request may hold up the others.
LAG_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

REQUEST_SECONDS = Histogram(
    "smoothgate_request_seconds",
    "Time from a request to the end of its answer.",
    ["route", "outcome"],
    buckets=LATENCY_BUCKETS,
)
FIRST_TEXT_SECONDS = Histogram(
    "smoothgate_first_text_seconds",
    "Time from a request to the first text of its streamed answer.",
    ["route"],
    buckets=LATENCY_BUCKETS,
)
EVENT_LOOP_LAG_SECONDS = Histogram(
    "smoothgate_event_loop_lag_seconds",
    "How late the event loop is, measured twenty times a second: so long does every request wait.",
    buckets=LAG_BUCKETS,
)
IN_FLIGHT = Gauge("smoothgate_requests_in_flight", "Requests that are being answered, without probes.")
REFUSALS = Counter(
    "smoothgate_refusals_total",
    "Requests refused before they reached their route: no valid key, too many requests, draining.",
    ["code"],
)
ACCOUNT_REQUESTS = Counter(
    "smoothgate_account_requests", "Requests with a valid key, refused ones included.", ["account"]
)
ACCOUNT_REFUSALS = Counter(
    "smoothgate_account_refusals",
    "Requests refused because a limit of their account was reached.",
    ["account", "code"],
)
ACCOUNT_WORK = Counter(
    "smoothgate_account_work",
    "Work charged to an account, in noisy forwards of a canvas of typical size.",
    ["account"],
)
ACCOUNT_WORK_RETURNED = Counter(
    "smoothgate_account_work_returned",
    "Work given back to an account, since its pictures were smaller than typical ones.",
    ["account"],
)
ACCOUNT_TOKENS = Counter(
    "smoothgate_account_tokens",
    "Tokens of prompts and answers of an account, as vLLM counts them; estimates of what ended early.",
    ["account"],
)
LIMITS_FAILURES = Counter(
    "smoothgate_limits_failures",
    "Times that the counters which replicas share could not be reached: limits held for each replica alone.",
)
BODY_BYTES = Gauge("smoothgate_body_bytes", "Bytes of the bodies of requests that are being answered.")
ENGINE_INFO = Gauge("smoothgate_engine_info", "1, with the version of vLLM, once it was asked.", ["version"])
READY = Gauge("smoothgate_ready", "1 while the service is ready for requests.")
STAGE_SECONDS = Histogram(
    "smoothgate_stage_seconds",
    "Time in one stage of a request: decode, queue (until the first noise is drawn), select, certify, "
    "engine_first_token, engine.",
    ["stage"],
    buckets=LATENCY_BUCKETS,
)
SAMPLES = Counter("smoothgate_samples_total", "Noisy forwards drawn.")
WORK = Counter(
    "smoothgate_work_total",
    "Work done at the sampler, in noisy forwards of a canvas of typical size: a sample of a canvas with four "
    "times as many pixels is four units.",
)
WORK_DROPPED = Counter(
    "smoothgate_work_dropped_total",
    "Work not done because the client left, in noisy forwards of a canvas of typical size.",
)
SAMPLES_PER_IMAGE = Histogram(
    "smoothgate_samples_per_image", "Noisy forwards drawn for one image.", buckets=SAMPLE_BUCKETS
)
SAMPLING_SECONDS = Counter(
    "smoothgate_sampling_seconds_total",
    "Time that the sampler's threads spent on batches, divided by the number of threads. The rate of "
    "work divided by the rate of this is work per second.",
)
BATCH_FILL = Histogram(
    "smoothgate_batch_fill_ratio", "Share of a batch that held samples.", buckets=FILL_BUCKETS
)
QUEUED_SAMPLES = Gauge("smoothgate_queued_samples", "Noisy forwards waiting to be drawn.")
QUEUED_WORK = Gauge(
    "smoothgate_queued_work", "Work waiting at the sampler, in noisy forwards of a canvas of typical size."
)
QUEUED_SECONDS = Gauge(
    "smoothgate_queued_seconds", "Time that the waiting work will take at the present throughput."
)
RESERVED_WORK = Gauge(
    "smoothgate_reserved_work",
    "Work of admitted requests whose images are still being decoded, in noisy forwards of a canvas of "
    "typical size.",
)
DEGRADED = Counter(
    "smoothgate_degraded_requests_total",
    "Requests that got fewer certification samples under load.",
    ["n_certify"],
)
CACHE = Counter(
    "smoothgate_cache_requests_total",
    "Lookups of images among earlier results, by outcome: hit, miss.",
    ["outcome"],
)
SAMPLER_FAILURES = Counter("smoothgate_sampler_failures_total", "Batches or sampler threads that failed.")
FAILED_IMAGES = Counter(
    "smoothgate_failed_images_total",
    "Images whose sampling failed without fault of the client, by where: selection, scores, batch, thread.",
    ["reason"],
)
BATCHES_HALVED = Counter(
    "smoothgate_batches_halved_total",
    "Batches that did not fit into the memory of the device and were computed in halves.",
)
DECODERS_UP = Gauge(
    "smoothgate_decoders_up", "0 from a decoder process that does not start until one starts; else 1."
)
DECODER_FAILURES = Counter(
    "smoothgate_decoder_failures_total",
    "Decoder processes that ended early, by reason: timeout (a picture took too long), crash, start.",
    ["reason"],
)
SAMPLER_UP = Gauge("smoothgate_sampler_up", "1 while all sampler threads run.")
CERTIFICATES = Counter("smoothgate_certificates_total", "Certificates issued.", ["outcome"])
SCORE = Histogram(
    "smoothgate_gaussian_robustness_score",
    "Mean score of an image's certification samples.",
    buckets=SCORE_BUCKETS,
)
RADIUS = Histogram(
    "smoothgate_certified_radius",
    "Certified l2 radius at the cosine threshold, in the encoder's input space.",
    buckets=RADIUS_BUCKETS,
)
GENERATIONS_IN_FLIGHT = Gauge(
    "smoothgate_generations_in_flight", "Answers to noisy copies that vLLM is asked for now."
)
QUEUED_GENERATIONS = Gauge(
    "smoothgate_queued_generations", "Answers to noisy copies that the votes under way may still need."
)
RESERVED_GENERATIONS = Gauge(
    "smoothgate_reserved_generations",
    "Answers to noisy copies of admitted requests whose images are still being decoded.",
)
VOTES = Counter("smoothgate_votes_total", "Answers to noisy copies that were counted as votes.")
ANSWERS = Counter("smoothgate_answer_certificates_total", "Certificates of answers issued.", ["outcome"])
ANSWER_RADIUS = Histogram(
    "smoothgate_answer_radius",
    "l2 radius in which an answer holds, in the encoder's input space; 0 without one.",
    buckets=RADIUS_BUCKETS,
)
GENERATIONS = Histogram(
    "smoothgate_generations_per_answer",
    "Answers that vLLM was asked for, for one certified answer.",
    buckets=SAMPLE_BUCKETS,
)
STORE_FAILURES = Counter(
    "smoothgate_store_failures_total", "Certificates that could not be kept in the store."
)
LOG_ENTRIES = Gauge("smoothgate_log_entries", "Entries of the log of commitments.")
LOG_UP = Gauge(
    "smoothgate_log_up",
    "0 from a write to the log of commitments that fails until one succeeds; else 1. NaN without a log.",
)
LOG_FAILURES = Counter(
    "smoothgate_log_failures_total", "Requests whose entries could not be written to the log of commitments."
)
CANARIES = Counter(
    "smoothgate_canaries_total",
    "Canary requests by outcome: ok, drift, failed; engine: a shared vLLM did not answer one.",
    ["outcome"],
)
CANARY_SCORE = Gauge("smoothgate_canary_score", "Mean score of the latest canary request.")
ENGINE_UP = Gauge("smoothgate_engine_up", "1 while vLLM answers its health check; NaN where there is none.")
ENGINE_RESTARTS = Counter("smoothgate_engine_restarts_total", "Restarts of our own vLLM.")
BUILD = Info("smoothgate_build", "Version of the service, and the digests that its certificates carry.")

# OpenTelemetry's names for what every server of a language model has, as its exporter for Prometheus writes
# them, with the buckets that its conventions ask for:
# https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-metrics/
_GEN_AI = ["gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model"]
GEN_AI_DURATION = Histogram(
    "gen_ai_server_request_duration_seconds",
    "Time from a chat to the end of its answer.",
    [*_GEN_AI, "error_type"],
    buckets=tuple(0.01 * 2**i for i in range(14)),
)
GEN_AI_FIRST_TOKEN = Histogram(
    "gen_ai_server_time_to_first_token_seconds",
    "Time from a chat to the first text of its streamed answer.",
    _GEN_AI,
    buckets=(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
)
GEN_AI_PER_TOKEN = Histogram(
    "gen_ai_server_time_per_output_token_seconds",
    "Time per token of a streamed answer after the first.",
    _GEN_AI,
    buckets=(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5),
)
GEN_AI_TOKENS = Histogram(
    "gen_ai_client_token_usage",
    "Tokens of a chat, by gen_ai_token_type: input, output.",
    [*_GEN_AI, "gen_ai_token_type"],
    buckets=tuple(float(4**i) for i in range(14)),
)

# Prometheus sees no increase from a missing series to 1, so series that alerts use start at 0.
for _counter, _values in (
    (CERTIFICATES, ("certified", "bounded", "abstained", "vacuous")),
    (ANSWERS, ("certified", "abstained")),
    (CANARIES, ("ok", "drift", "failed", "engine")),
    (DECODER_FAILURES, ("timeout", "crash", "start")),
    (FAILED_IMAGES, ("selection", "scores", "batch", "thread")),
    (
        REFUSALS,
        ("invalid_api_key", "requests_per_minute", "concurrent_requests", "too_many_requests", "draining"),
    ),
):
    for _value in _values:
        _counter.labels(_value)

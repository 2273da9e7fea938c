"""The settings of the service: one class for each group, and all of them together in `Settings`.

A part of the service takes the one group that it uses. A setting `name` is read from the environment variable
`SMOOTHGATE_NAME`, or else from such a line in a file `.env` in the working directory. `.env.example` and
`docs/settings.md` are rendered from these classes (`smoothgate.cli.settings_documents`).

Radii (l2) and sigma are in the units of the encoder's input: pixels in [0, 1] after resize and crop, before
mean/std normalisation.
"""

from __future__ import annotations

import ipaddress
import re
import shlex
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from smoothgate.bundled import DEMO, bundled
from smoothgate.certify.alpha import COSINES

PREFIX = "SMOOTHGATE_"
ENV_FILE = ".env"


def _shell_words(value: Any) -> Any:
    return shlex.split(value) if isinstance(value, str) else value


def _comma_separated(value: Any) -> Any:
    return value.split(",") if isinstance(value, str) else value


# NoDecode: the environment holds them as text, not as JSON.
Words = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_shell_words)]
Numbers = Annotated[tuple[float, ...], NoDecode, BeforeValidator(_comma_separated)]
Counts = Annotated[tuple[int, ...], NoDecode, BeforeValidator(_comma_separated)]


class _Group(BaseModel):
    model_config = ConfigDict(frozen=True, allow_inf_nan=False, hide_input_in_errors=True)


class ServerSettings(_Group):
    """Where the service listens, and what it reports about itself."""

    host: str = Field("127.0.0.1", description="Address to listen on; `0.0.0.0` for every interface.")
    port: int = Field(8000, ge=1, le=65535, description="TCP port to listen on.")
    shutdown_timeout_seconds: float = Field(
        20.0, ge=0, description="Time that requests in flight are given to finish after SIGTERM."
    )
    metrics_port: int | None = Field(
        None,
        ge=1,
        le=65535,
        description="TCP port that serves `/metrics` and nothing else, without API keys. Unset: the main "
        "port serves it, and asks for a key as for every route.",
    )
    tracing_url: str | None = Field(
        None,
        pattern=r"^https?://[^\s/]\S*$",
        description="OTLP/HTTP collector that gets the OpenTelemetry traces of the service and of its own "
        "vLLM, e.g. `http://collector:4318`. Unset: there are no traces.",
    )
    log_format: Literal["auto", "json", "console"] = Field(
        "auto", description="Format of the log. `auto` is `console` on a terminal and `json` elsewhere."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Lowest level that is logged."
    )
    playground: bool | None = Field(
        None,
        description="Whether `GET /` serves the playground. Unset: with a bundled model and an engine.",
    )
    laboratory: bool | None = Field(
        None,
        description="Whether users of the playground may attack the demo model. One attack runs at a time, "
        "on one core. Needs the extra `lab`. Unset: only without `ACCOUNTS`, and where the "
        "extra is installed.",
    )


class AccessSettings(_Group):
    """Who may use the service."""

    accounts: Path | None = Field(
        None,
        description="File of API keys, as hashes, with their limits (`smoothgate accounts add`). The "
        "service reads it again when it changes. Unset: everyone who can connect may use the "
        "service.",
    )
    limits_url: SecretStr | None = Field(
        None,
        description="Redis in which all replicas count what accounts take of their limits per minute: "
        "`redis://:PASSWORD@HOST:6379/0`, or `rediss://` for TLS. Needs the extra `fleet`. Unset: each "
        "replica counts for itself, and an account has its limits at each.",
    )
    anonymous: bool = Field(
        False,
        description="Whether the service may start without `ACCOUNTS` on an address other than loopback. "
        "Everyone who can connect may then use it.",
    )
    hosts: Words = Field(
        (),
        description="Names that this service has beside `localhost`, where it listens on loopback and has no "
        "`ACCOUNTS`: a request for another name is refused, since a web page may have made it.",
    )
    cors_origins: Words = Field(
        (),
        description="Web pages of other sites that may ask, as `https://chat.example.com` or "
        "`http://localhost:5173`; `*`: all. Unset: none.",
    )

    @field_validator("cors_origins")
    @classmethod
    def _as_browsers_write_them(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        # Any other would match nothing: pages would be refused, and nobody would know why.
        for origin in origins:
            if not re.fullmatch(r"\*|https?://[^/\s]+", origin):
                raise ValueError("an origin is https://HOST or https://HOST:PORT, without a slash behind it")
        return origins


class EncoderSettings(_Group):
    """Which model is served, and how its encoder runs."""

    model: str | None = Field(
        None,
        description="Checkpoint to serve: a folder, a Hugging Face id or a bundled model. Unset: `demo`.",
    )
    model_revision: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]*$",
        description="Commit (or tag, or branch) of `MODEL` on Hugging Face. It is downloaded whole at the "
        "start, for the encoder and for the service's own vLLM. A vLLM at `ENGINE_URL` needs the same as "
        "`--revision`. Unset: the latest when a file is first needed.",
    )
    served_model_name: str | None = Field(
        None, description="Name of the model for clients. Unset: the last part of the checkpoint's name."
    )
    psm: Path | None = Field(
        None,
        description="Folder that `smoothgate psm train` or `psm calibrate` wrote for this model. Unset: the "
        "bundled model's own. Any other model needs one.",
    )
    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|cuda(:\d+)?|cuda:\d+(,cuda:\d+)+)$",
        description="Where the encoder runs: `auto` (CUDA where there is one), `cpu`, `cuda`, `cuda:N`, or "
        "several: `cuda:0,cuda:1`.",
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description="Arithmetic of the encoder and of the service's own vLLM. `auto` is float32 on a CPU "
        "and bfloat16 on CUDA.",
    )
    threads: int = Field(0, ge=0, description="CPU threads of the sampler in total. 0: one per core.")
    batch_size: int = Field(
        0, ge=0, description="Noisy forwards per batch. 0: the service measures the best size when it starts."
    )


class EngineSettings(_Group):
    """vLLM: one that the service starts, or one that runs elsewhere."""

    engine: Literal["vllm", "none"] = Field(
        "vllm",
        description="`none`: there is no language model, and the service only certifies pictures "
        "(`/v1/certify`); chats are refused (404).",
    )
    engine_url: str | None = Field(
        None,
        pattern=r"^https?://[^\s/]\S*$",
        description="Base URL of a running vLLM (without `/v1`). Unset: Smoothgate starts a vLLM of its own.",
    )
    engine_api_key: SecretStr | None = Field(None, description="Bearer key sent to the vLLM at `ENGINE_URL`.")
    engine_args: Words = Field(
        (),
        description="Further command-line arguments for the service's own vLLM, e.g. "
        "`--tensor-parallel-size 2`.",
    )
    engine_fields: Words = Field(
        (),
        description="Fields of chat requests that vLLM gets beyond those that docs/operations.md lists; any "
        "other is refused (422).",
    )
    engine_max_model_len: int | None = Field(
        None,
        ge=1,
        description="Context length of the service's own vLLM, in tokens. Unset: that of the checkpoint.",
    )
    engine_kv_cache_gib: float = Field(
        1.0, gt=0, description="Key/value cache of the service's own vLLM on a CPU, in GiB."
    )
    engine_start_timeout_seconds: float = Field(
        600.0,
        gt=0,
        description="Time that the service's own vLLM has to become ready. After it, the service restarts "
        "it.",
    )
    engine_read_timeout_seconds: float = Field(
        120.0, gt=0, description="Longest silence of vLLM within an answer before the request fails."
    )
    engine_keepalive_seconds: float = Field(
        2.0,
        gt=0,
        description="Time that an idle connection to the vLLM at `ENGINE_URL` is kept. It must be below "
        "vLLM's `VLLM_HTTP_TIMEOUT_KEEP_ALIVE` (5 by default).",
    )


class SamplingSettings(_Group):
    """Noise, samples and bounds: the defaults of a request, and what it may ask for."""

    sigma: float = Field(
        0.5,
        gt=0,
        description="Default standard deviation of the noise. Without a trained PSM, answers stay right up "
        "to about 0.1.",
    )
    sigma_min: float = Field(0.02, gt=0, description="Smallest sigma that a client may ask for.")
    sigma_max: float = Field(1.0, gt=0, description="Largest sigma that a client may ask for.")
    n_select: int = Field(128, ge=1, description="Noise samples per image that choose the served feature.")
    n_certify: int = Field(256, ge=1, description="Fresh noise samples per image for the certificate.")
    n_select_answer: int = Field(
        16, ge=1, description="Noise samples that choose the answer, where the answer is certified."
    )
    votes_in_flight: int = Field(
        128,
        ge=1,
        description="Most answers to noisy copies that vLLM is asked for at a time, of all requests.",
    )
    max_samples: int = Field(
        16384, ge=2, description="Largest `n_select + n_certify` per image that a client may ask for."
    )
    alpha: float = Field(
        0.001,
        gt=0,
        lt=1,
        description="Probability of a wrong certificate, shared by the images of a request.",
    )
    cosine_threshold: float = Field(
        0.5, ge=0, lt=1, description="Cosine similarity that the reported radius certifies."
    )
    cosines: Numbers = Field(
        COSINES,
        description="Cosines at which the angular radius is reported, at least 0, below 1 and in ascending "
        "order. They share alpha. Where a target is named, it has their whole part.",
    )
    eps: Numbers = Field(
        (0.25, 0.5, 1.0), description="l2 radii at which the cosine bound is reported, in ascending order."
    )
    allow_smoothing_off: bool = Field(
        False, description="Whether a client may switch smoothing off (raw features, no certificate)."
    )
    degrade: Counts = Field(
        (),
        description="Smaller numbers of samples, in descending order, that replace `N_CERTIFY` under load, "
        "for requests that name no `n_certify`. k numbers cut `MAX_QUEUED_SECONDS` into k + 1 "
        "equal parts, and each further part of the wait takes the next number. The certificate "
        "says so. Unset: never.",
    )
    cache_mib: int = Field(
        256,
        ge=0,
        description="Memory for results, in MiB. A repeated picture of the same account with the same "
        "smoothing options then costs no samples. 0: off.",
    )
    noise_secret_file: Path | None = Field(
        None,
        description="File of at least 32 bytes that the noise of every picture follows from "
        "(`smoothgate keys noise-secret`). All replicas need the same. Unset: the service makes a new secret "
        "at every start.",
    )

    @field_validator("eps")
    @classmethod
    def _ascending_radii(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not value or not all(low < high for low, high in zip((0.0, *value), value, strict=False)):
            raise ValueError("give one or more radii above 0, in ascending order")
        return value

    @field_validator("cosines")
    @classmethod
    def _ascending_cosines(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not value or list(value) != sorted(set(value)) or not 0.0 <= value[0] <= value[-1] < 1.0:
            raise ValueError("give one or more numbers from 0 to below 1, in ascending order")
        return value

    @field_validator("degrade")
    @classmethod
    def _falling(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if any(high <= low for high, low in zip(value, (*value[1:], 0), strict=False)):
            raise ValueError("give numbers of samples above 0, in descending order")
        return value

    @model_validator(mode="after")
    def _within_the_budget(self) -> Self:
        if self.degrade and self.degrade[0] >= self.n_certify:
            raise ValueError(
                f"SMOOTHGATE_DEGRADE={self.degrade[0]} is not below SMOOTHGATE_N_CERTIFY={self.n_certify}"
            )
        if not self.sigma_min <= self.sigma <= self.sigma_max:
            raise ValueError(
                f"SMOOTHGATE_SIGMA={self.sigma:g} is not within SMOOTHGATE_SIGMA_MIN={self.sigma_min:g} and "
                f"SMOOTHGATE_SIGMA_MAX={self.sigma_max:g}"
            )
        if self.n_select + self.n_certify > self.max_samples:
            raise ValueError(
                f"SMOOTHGATE_N_SELECT={self.n_select} and SMOOTHGATE_N_CERTIFY={self.n_certify} together "
                f"exceed SMOOTHGATE_MAX_SAMPLES={self.max_samples}"
            )
        return self


class PolicySettings(_Group):
    """What must be certified, and how certificates are signed and kept."""

    policy: Literal["report", "enforce"] = Field(
        "report",
        description="What happens to a picture whose certificate misses the policy. `enforce`: the request "
        "is refused (422), and the language model is not asked. `report`: the certificate says "
        "so.",
    )
    certify: Literal["features", "answer"] = Field(
        "features",
        description="What is certified where a request names nothing: the features that the language model "
        "gets, or its answer (dozens of generations for each answer). Unset with the bundled model `photos`: "
        "`answer`.",
    )
    policy_radius: float | None = Field(
        None, gt=0, description="l2 radius in which answers must hold. Unset: no policy."
    )
    policy_cosine: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="Cosine that must be certified at `POLICY_EPS`. Unset: no policy.",
    )
    policy_eps: float | None = Field(None, gt=0, description="l2 radius of the policy.")
    signing_key_file: Path | None = Field(
        None,
        description="Ed25519 private key that signs certificates, as PEM or JWK (`smoothgate keys new`). "
        "Unset: the service makes a new key at every start.",
    )
    ephemeral_key: bool = Field(
        False,
        description="Whether the service may make its signing key at start on an address other than "
        "loopback. Nobody can check its certificates after the next start, and each replica signs with a "
        "key of its own.",
    )
    retired_keys: Words = Field(
        (),
        description="Files of further public keys to publish: those that were used before the last rotation.",
    )
    store: Path | None = Field(
        None,
        description="Folder that keeps certificates and scores, for audits, and the log of commitments. "
        "Unset: neither is kept.",
    )
    store_max_bytes: int = Field(
        100 * 2**20, ge=2**20, description="Size of one file of certificates in the store, in bytes."
    )
    store_files: int = Field(
        10, ge=1, description="Number of files of certificates that the store keeps. It deletes the oldest."
    )

    @model_validator(mode="after")
    def _complete_policy(self) -> Self:
        if (self.policy_cosine is None) != (self.policy_eps is None):
            raise ValueError(
                "SMOOTHGATE_POLICY_COSINE and SMOOTHGATE_POLICY_EPS belong together: set both or neither"
            )
        if self.policy == "enforce" and self.certify == "features" and self.policy_cosine is None:
            raise ValueError(
                "SMOOTHGATE_POLICY=enforce needs SMOOTHGATE_POLICY_COSINE and SMOOTHGATE_POLICY_EPS"
            )
        if self.policy == "enforce" and self.certify == "answer" and self.policy_radius is None:
            raise ValueError(
                "SMOOTHGATE_POLICY=enforce with SMOOTHGATE_CERTIFY=answer needs SMOOTHGATE_POLICY_RADIUS"
            )
        return self


class LimitSettings(_Group):
    """What one request may use, and all of them together."""

    max_requests: int = Field(256, ge=1, description="Requests in flight. More are refused (429).")
    max_queued_seconds: float = Field(
        60.0,
        gt=0,
        description="Longest wait for the sampler, at the measured throughput. A request whose samples "
        "would make it longer is refused (429) before its images are decoded. A request that "
        "comes alone is always accepted.",
    )
    request_timeout_seconds: float = Field(
        120.0,
        gt=0,
        description="Longest time from a request to its answer, or to the first token of a stream.",
    )
    max_images: int = Field(4, ge=1, description="Images per request.")
    max_image_bytes: int = Field(10 * 2**20, ge=1, description="Size of one encoded image, in bytes.")
    max_image_pixels: int = Field(
        16_000_000,
        ge=1,
        description="Width times height of one image, in pixels. It is checked before decoding.",
    )
    max_canvas_pixels: int | None = Field(
        None,
        ge=1,
        description="Most pixels of the encoder's input. A larger image is resized as the model's own "
        "processor does with smaller settings, and its certificate says so. For models whose input depends "
        "on the image; the service does not start where every input has more. Unset: the model's own limit.",
    )
    max_body_bytes: int = Field(64 * 2**20, ge=1, description="Size of a request body, in bytes.")
    max_bodies_bytes: int = Field(
        2**30,
        ge=1,
        description="Size of the bodies of all requests in flight together, in bytes; what exceeds it is "
        "refused (429).",
    )
    max_choices: int = Field(16, ge=1, description="Largest `n`: answers to one request.")
    max_tokens: int | None = Field(
        None,
        ge=1,
        description="Largest `max_tokens`, and what a request gets that names none; at most the model's "
        "context. Unset: as many as the context has room for.",
    )
    max_logprobs: int = Field(
        20, ge=0, description="Largest `top_logprobs` and `prompt_logprobs`: alternatives per token."
    )
    max_text_characters: int = Field(
        2**20,
        ge=1,
        description="Characters of all texts of a request together, without its pictures; more are "
        "refused (413).",
    )
    body_timeout_seconds: float = Field(30.0, gt=0, description="Longest time to receive a request body.")
    decode_timeout_seconds: float = Field(
        10.0,
        gt=0,
        description="Longest time to decode one image, and that an image waits for a free decoder.",
    )
    url_hosts: Words = Field(
        (),
        description="Hosts that pictures may be fetched from over https: names, or patterns such as "
        "`*.example.com`. Unset: URLs are refused.",
    )
    url_timeout_seconds: float = Field(10.0, gt=0, description="Longest time to fetch one picture.")


class HealthSettings(_Group):
    """How the service watches itself."""

    canary_seconds: float = Field(
        300.0,
        ge=0,
        description="Pause between two canaries. A canary sends a known picture through the whole service. "
        "If it fails or its score is off, the service is not ready. 0: no canaries, not even at "
        "the start.",
    )
    canary_tolerance: float = Field(
        0.1, gt=0, lt=1, description="How far a canary's score may be from the calibrated one."
    )


class Settings(
    ServerSettings,
    AccessSettings,
    EncoderSettings,
    EngineSettings,
    SamplingSettings,
    PolicySettings,
    LimitSettings,
    HealthSettings,
    BaseSettings,
):
    """The settings of one process, validated once at start.

    Raises:
        pydantic.ValidationError: a value is out of bounds, two values contradict each other, or `.env` has a
            variable with our prefix that is no setting. Values are left out of the message: they may be
            secrets.
    """

    # A file `.env` may hold variables of other programs too. Ours that are misspelt are refused.
    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_file=ENV_FILE, env_ignore_empty=True, dotenv_filtering="match_prefix"
    )

    @model_validator(mode="before")
    @classmethod
    def _of_the_model(cls, values: dict[str, Any]) -> dict[str, Any]:
        model = bundled(values.get("model"))
        return values if model is None else {"certify": model.certify} | values

    @property
    def has_playground(self) -> bool:
        """Whether the page is served."""
        if self.playground is not None:
            return self.playground
        return bundled(self.model) is not None and self.engine == "vllm"

    @property
    def has_laboratory(self) -> bool:
        """Whether the demo model may be attacked there."""
        if self.laboratory is not None:
            return self.laboratory
        return self.has_playground and bundled(self.model) is DEMO and self.accounts is None

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can connect."""
        return _is_loopback(self.host)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.accounts is None and not self.anonymous and not self.is_loopback:
            raise ValueError(
                f"SMOOTHGATE_HOST={self.host} can be reached from elsewhere: set SMOOTHGATE_ACCOUNTS, or set "
                "SMOOTHGATE_ANONYMOUS=true if another part controls access"
            )
        if self.signing_key_file is None and not self.ephemeral_key and not self.is_loopback:
            raise ValueError(
                f"SMOOTHGATE_HOST={self.host} can be reached from elsewhere: set SMOOTHGATE_SIGNING_KEY_FILE "
                "(`smoothgate keys new`), or set SMOOTHGATE_EPHEMERAL_KEY=true if certificates need not be "
                "checked after the next start"
            )
        if self.engine == "none" and (self.engine_url or self.playground or self.laboratory):
            raise ValueError(
                "SMOOTHGATE_ENGINE=none goes with no SMOOTHGATE_ENGINE_URL, SMOOTHGATE_PLAYGROUND or "
                "SMOOTHGATE_LABORATORY"
            )
        if self.laboratory and not (self.has_playground and bundled(self.model) is DEMO):
            raise ValueError("SMOOTHGATE_LABORATORY=true needs the playground and the bundled demo model")
        return self


#: Every group with its title, in the order of the documents.
GROUPS: dict[str, type[BaseModel]] = {
    "Server": ServerSettings,
    "Access": AccessSettings,
    "Encoder": EncoderSettings,
    "Engine (vLLM)": EngineSettings,
    "Sampling": SamplingSettings,
    "Policy and certificates": PolicySettings,
    "Limits": LimitSettings,
    "Health": HealthSettings,
}


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"

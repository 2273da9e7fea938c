"""All failures that the service answers with.

SmoothgateError
├── RequestError            the client can correct it
│   ├── MalformedRequest    400
│   ├── Unauthorized        401
│   ├── Forbidden           403  (another site's page, a foreign name of this service)
│   ├── UnknownModel        404
│   ├── NoLanguageModel     404  (the service only certifies)
│   ├── NotFound            404  (a log or an entry that is not there)
│   ├── BodyTimedOut        408
│   ├── TooLarge            413
│   ├── UnsupportedBody     415  (a content type or encoding that is not read)
│   └── Unacceptable        422  (bad image, budget too small)
│       └── PolicyNotMet    422  with the certificates
├── Overloaded              429  with Retry-After  (the service's limit or the client's own)
├── NotReady                503  with Retry-After
├── EngineFailed            502
├── EngineTimedOut          504
├── SamplerFailed           500
└── RequestTimedOut         504

Each class holds its status, so that there is one mapping. `smoothgate.http.error_responses` turns errors into
responses.
"""

from __future__ import annotations

from typing import Any


class SmoothgateError(Exception):
    """Base of all failures.

    Args:
        message: what went wrong and, if possible, what would be right. The client sees it, so it must hold no
            secret and no path.
        param: the request field at fault, in dotted form (`messages.0.content.1`), or None.
        code: a stable machine-readable name.
        retry_after: seconds after which a retry makes sense, or None.
    """

    status = 500
    type = "server_error"
    default_code = "internal_error"

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code or self.default_code
        self.retry_after = retry_after


class RequestError(SmoothgateError):
    """The request is at fault."""

    status = 400
    type = "invalid_request_error"
    default_code = "invalid_request"


class MalformedRequest(RequestError):
    """The request does not have the form that the route expects."""

    default_code = "malformed_request"


class Unauthorized(RequestError):
    """The request has no valid API key."""

    status = 401
    type = "authentication_error"
    default_code = "invalid_api_key"


class Forbidden(RequestError):
    """The request comes from where none is taken."""

    status = 403
    default_code = "forbidden"


class UnknownModel(RequestError):
    """The model named in the request is not the one served."""

    status = 404
    default_code = "model_not_found"


class NoLanguageModel(RequestError):
    """The service was started without a language model, and cannot answer chats."""

    status = 404
    default_code = "no_language_model"


class NotFound(RequestError):
    """What the request names is not there."""

    status = 404
    default_code = "not_found"


class BodyTimedOut(RequestError):
    """The body took too long to arrive."""

    status = 408
    default_code = "body_timeout"


class TooLarge(RequestError):
    """The body, an image or a count is above its limit."""

    status = 413
    default_code = "too_large"


class UnsupportedBody(RequestError):
    """The body is of a type or an encoding that is not read."""

    status = 415
    default_code = "unsupported_content_type"


class Unacceptable(RequestError):
    """The request is well-formed but cannot be served, for example a broken image or a budget too small."""

    status = 422
    default_code = "unacceptable"


class PolicyNotMet(Unacceptable):
    """The policy requires more than could be certified. There is no answer.

    Args:
        message: what the policy requires.
        certified: what was certified, as fields of JSON for the client.
    """

    default_code = "policy_not_met"

    def __init__(self, message: str, certified: dict[str, Any]) -> None:
        super().__init__(message)
        self.certified = certified


class Overloaded(SmoothgateError):
    """There are more requests than the service can take, or than this client may send."""

    status = 429
    type = "rate_limit_error"
    default_code = "overloaded"


class NotReady(SmoothgateError):
    """The engine or the encoder is not ready, or the service is draining."""

    status = 503
    type = "service_unavailable_error"
    default_code = "not_ready"


class EngineFailed(SmoothgateError):
    """The engine died, or its answer is invalid."""

    status = 502
    type = "engine_error"
    default_code = "engine_failed"


class EngineTimedOut(EngineFailed):
    """The engine did not answer in time."""

    status = 504
    default_code = "engine_timeout"


class SamplerFailed(SmoothgateError):
    """The noise sampler failed while this request was being sampled."""

    default_code = "sampler_failed"


class RequestTimedOut(SmoothgateError):
    """The request took longer than the operator allows."""

    status = 504
    type = "timeout_error"
    default_code = "request_timeout"

"""What the filter tells Envoy, as messages of its protocol."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from envoy_data_plane.envoy.config.core.v3 import (
    HeaderValue,
    HeaderValueOption,
    HeaderValueOptionHeaderAppendAction,
)
from envoy_data_plane.envoy.service.ext_proc.v3 import (
    BodyMutation,
    BodyResponse,
    CommonResponse,
    HeaderMutation,
    HeadersResponse,
    ImmediateResponse,
    ProcessingResponse,
    StreamedBodyResponse,
    TrailersResponse,
)
from envoy_data_plane.envoy.type.v3 import HttpStatus, StatusCode

from smoothgate.http.outcome_headers import CERTIFICATE, OUTCOME, RADIUS

#: In `%RESPONSE_CODE_DETAILS%` of what the filter answers itself: deploy/envoy/filter.yaml looks for it.
DETAILS = "smoothgate"

# Only the filter says what was certified.
_OURS = [name.lower() for name in (OUTCOME, RADIUS, CERTIFICATE)]
# Envoy recommends 64 KiB at most.
_PIECE_BYTES = 60_000


def request_headers(headers: Mapping[str, str]) -> Any:
    """The request goes on, with these headers and without others of their names."""
    return ProcessingResponse(request_headers=HeadersResponse(CommonResponse(header_mutation=_set(headers))))


def response_headers(headers: Mapping[str, str]) -> Any:
    """The response goes on, with these headers."""
    mutation = HeaderMutation(set_headers=_options(headers))
    return ProcessingResponse(response_headers=HeadersResponse(CommonResponse(header_mutation=mutation)))


def whole_body(body: bytes, headers: Mapping[str, str]) -> Any:
    """The body in the place of the one that Envoy buffered, with these headers."""
    common = CommonResponse(
        header_mutation=_set({**headers, "content-length": str(len(body))}),
        body_mutation=BodyMutation(body=body),
    )
    return ProcessingResponse(request_body=BodyResponse(common))


def streamed_body(body: bytes, *, trailers: bool) -> Iterator[Any]:
    """The body in pieces; `trailers`: whether they follow it, and end the request."""
    starts = range(0, max(len(body), 1), _PIECE_BYTES)
    for start in starts:
        ends = start == starts[-1] and not trailers
        piece = StreamedBodyResponse(body=body[start : start + _PIECE_BYTES], end_of_stream=ends)
        common = CommonResponse(body_mutation=BodyMutation(streamed_response=piece))
        yield ProcessingResponse(request_body=BodyResponse(common))
    if trailers:
        yield ProcessingResponse(request_trailers=TrailersResponse())


def immediate(status: int, headers: Mapping[str, str], body: bytes) -> Any:
    """Envoy answers the client with this, and the request goes no further."""
    return ProcessingResponse(
        immediate_response=ImmediateResponse(
            status=HttpStatus(StatusCode(status)),
            headers=HeaderMutation(set_headers=_options(headers)),
            body=body,
            details=DETAILS,
        )
    )


def _set(headers: Mapping[str, str]) -> Any:
    ours = [name for name in _OURS if name not in headers]
    return HeaderMutation(set_headers=_options(headers), remove_headers=ours)


def _options(headers: Mapping[str, str]) -> list[Any]:
    return [
        HeaderValueOption(
            header=HeaderValue(key=name, raw_value=value.encode("latin-1")),
            append_action=HeaderValueOptionHeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD,
        )
        for name, value in headers.items()
    ]

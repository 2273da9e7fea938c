"""What schemathesis makes of the service's own description: data that fits it, data that does not, and the
borders between.
"""

import itertools
import json
from collections.abc import Iterator
from functools import cache
from random import Random
from typing import Any
from urllib.parse import urlsplit

import requests as http
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import Case, GenerationMode

from tests.fuzz.request import BOUNDARY, Json, Request

SOURCE = "openapi"

# Of each operation and each kind of data, and of all borders, between two of the others.
_AT_ONCE = 12
_BORDERS = 30
# What differs from run to run, or is the client's business.
_LEFT_OUT = {"x-schemathesis-testcaseid", "user-agent", "content-length", "connection", "accept-encoding"}


def requests(rng: Random, document: Json) -> Iterator[Request]:
    """Without end; `document` is the parsed `/openapi.json`."""
    operations, found = _described(json.dumps(document))
    borders = list(found)
    rng.shuffle(borders)
    again = itertools.cycle(borders)
    while True:
        some = list(itertools.islice(again, _BORDERS))
        for operation in operations:
            for mode in GenerationMode:
                cases = _cases(operation, mode, rng.getrandbits(64))
                some += [_request(case, mode.value) for case in cases]
        rng.shuffle(some)
        yield from some


@cache
def _described(document: str) -> tuple[list[Any], list[Request]]:
    """The operations of a description, and the borders of their data."""
    schema = schemathesis.openapi.from_dict(json.loads(document))
    operations: list[Any] = [result.ok() for result in schema.get_all_operations()]  # type: ignore[union-attr]
    borders = [
        _request(case, "border")
        for operation in operations
        for case in schema.iter_coverage_cases(
            operation,
            generation_modes=list(GenerationMode),
            generation_config=schema.config.generation_for(operation=operation),
        )
    ]
    return operations, borders


def _cases(operation: Any, mode: GenerationMode, number: int) -> list[Case[Any]]:
    found: list[Case[Any]] = []

    @seed(number)
    @settings(
        max_examples=_AT_ONCE,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def collect(case: Case[Any]) -> None:
        found.append(case)

    # Where an operation takes nothing, nothing can be wrong.
    try:
        collect()
    except Unsatisfiable:
        return []
    return found


def _request(case: Case[Any], kind: str) -> Request:
    prepared = http.Request(**case.as_transport_kwargs(base_url="http://gate")).prepare()
    url = urlsplit(str(prepared.url))
    given_body: Any = prepared.body or b""
    body: bytes = given_body.encode() if isinstance(given_body, str) else given_body
    headers = {
        name: _text(value) for name, value in prepared.headers.items() if name.lower() not in _LEFT_OUT
    }
    head, fence, boundary = headers.get("Content-Type", "").partition("boundary=")
    if fence:
        headers["Content-Type"] = head + fence + BOUNDARY
        body = body.replace(boundary.encode(), BOUNDARY.encode())
    return Request(
        SOURCE,
        f"{kind}: {case.operation.label}",
        str(prepared.method),
        url.path + (f"?{url.query}" if url.query else ""),
        tuple(headers.items()),
        body,
    )


def _text(value: str | bytes) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else value

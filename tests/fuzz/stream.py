"""All requests of a run, in an order that hangs on the seed alone."""

from collections.abc import Iterator
from itertools import islice
from random import Random

from tests.fuzz import bodies, hostile, images, names, openapi, sizes, wire
from tests.fuzz.request import Json, Raw, Request

#: What share of the requests each source makes.
SHARES = {
    openapi.SOURCE: 0.26,
    images.SOURCE: 0.26,
    bodies.SOURCE: 0.27,
    names.SOURCE: 0.04,
    sizes.SOURCE: 0.05,
    wire.SOURCE: 0.05,
    hostile.SOURCE: 0.07,
}


def stream(document: Json, count: int, seed: int, *, patient: bool = True) -> Iterator[Request | Raw]:
    """So many requests against a service that describes itself so; `patient` as in `wire.requests`."""
    return islice(_endless(document, seed, patient), count)


def _endless(document: Json, seed: int, patient: bool) -> Iterator[Request | Raw]:
    rngs = {name: Random(f"{seed} {name}") for name in SHARES}
    sources: dict[str, Iterator[Request | Raw]] = {
        openapi.SOURCE: openapi.requests(rngs[openapi.SOURCE], document),
        images.SOURCE: images.requests(rngs[images.SOURCE]),
        bodies.SOURCE: bodies.requests(rngs[bodies.SOURCE]),
        hostile.SOURCE: hostile.requests(rngs[hostile.SOURCE]),
        names.SOURCE: names.requests(rngs[names.SOURCE]),
        sizes.SOURCE: sizes.requests(rngs[sizes.SOURCE]),
        wire.SOURCE: wire.requests(rngs[wire.SOURCE], patient=patient),
    }
    order = Random(seed)
    while True:
        (name,) = order.choices(list(SHARES), list(SHARES.values()))
        yield next(sources[name])

"""JSON that a stranger sends: held to its limits before it is parsed, and parsed away from the event loop.

A call into C keeps Python's lock, and the event loop waits for it. So what is long is counted piece by piece,
and only what is within the limits is parsed in one call.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import Any

from smoothgate.errors import MalformedRequest, TooLarge
from smoothgate.off_loop import off_loop

#: Values in one body. A picture is one value; a chat of a hundred messages has about a thousand.
MAX_VALUES = 100_000
# Escaped characters take the parser longer than others do. Base64 has one slash in 64 characters, which some
# clients escape, and a text of a million characters may have all of them escaped.
_MAX_ESCAPES = 2**21
_BYTES_PER_ESCAPE = 32
# A value follows each of them, or none.
_MARKS = (b",", b"[", b"{")
# The code that walks through the values of a body is recursive.
_MOST_NESTED = 100
_MOST_SHOWN = 40
# Counting a piece takes some milliseconds at most, however many matches it has.
_PIECE_BYTES = 2**20
# What is smaller takes less time than a change of threads.
_SMALL_BYTES = 4096


async def parsed(text: str | bytes, param: str | None = None) -> Any:
    """Parse JSON.

    Args:
        text: of the body, or of a field of a form.
        param: the field, for errors.

    Raises:
        MalformedRequest: code `invalid_json`: not JSON in UTF-8, a name twice in one object, a number that
            is none or too large, or nested too deeply.
        TooLarge: code `too_many_values`: more values than any chat has, or more escaped characters.
    """
    if len(text) <= _SMALL_BYTES:
        return _parse(text, param)
    return await off_loop(_parse, text, param)


def _parse(text: str | bytes, param: str | None) -> Any:
    where = param or "The body"
    raw = text.encode(errors="surrogatepass") if isinstance(text, str) else text
    escapes = _MAX_ESCAPES + len(raw) // _BYTES_PER_ESCAPE
    if _exceed(_counts(raw, b"\\"), escapes) or _has_more_values(raw, MAX_VALUES):
        raise TooLarge(f"{where} holds more than {MAX_VALUES} values.", param=param, code="too_many_values")
    try:
        value = _strict(raw)
    except (ValueError, RecursionError) as error:
        raise MalformedRequest(f"{where} {_why(error)}", param=param, code="invalid_json") from error
    level = [value]
    for _ in range(_MOST_NESTED):
        level = [item for container in level for item in _items(container)]
    if level:
        raise MalformedRequest(
            f"{where} is nested more than {_MOST_NESTED} deep.", param=param, code="invalid_json"
        )
    return value


class _NotTaken(ValueError):
    """What some parsers take, and others take for something else."""


def _strict(raw: bytes) -> Any:
    # Parsers disagree about everything that is refused here, so the service and what stands in front of it
    # would read different requests. A byte order mark changes nothing.
    if (encoding := json.detect_encoding(raw)) not in ("utf-8", "utf-8-sig"):
        raise _NotTaken(f"must be in UTF-8; it looks like {encoding.upper()}.")
    return json.loads(
        raw.decode("utf-8-sig"),
        object_pairs_hook=_object,
        parse_constant=_no_constant,
        parse_float=_finite,
    )


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        ((twice, _),) = Counter(name for name, _ in pairs).most_common(1)
        raise _NotTaken(f"holds {json.dumps(twice[:_MOST_SHOWN])} twice in one object.")
    return made


def _no_constant(name: str) -> Any:
    raise _NotTaken(f"holds {name}, which is not JSON.")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise _NotTaken(f"holds a number that is too large: {text[:_MOST_SHOWN]}.")
    return number


def _why(error: ValueError | RecursionError) -> str:
    match error:
        case _NotTaken():
            return str(error)
        case json.JSONDecodeError():
            return f"is not JSON: {error.msg} at line {error.lineno}, column {error.colno}."
        case UnicodeDecodeError():
            return f"must be in UTF-8; byte {error.start} is not."
        case RecursionError():
            return "is nested too deeply."
        case _:  # Python's limit
            return "holds a whole number of too many digits."


def _has_more_values(raw: bytes, limit: int) -> bool:
    """Whether a JSON text holds more than `limit` values; what is not JSON may be called either."""
    if not _exceed(_counts(raw, *_MARKS), limit):
        return False
    # Commas in texts count no longer: without escapes, every second piece between quotes is a string.
    plain = raw.replace(b"\\\\", b"").replace(b'\\"', b"")
    if _exceed(_counts(plain, b'"'), 4 * limit):
        return True
    return _exceed((n for piece in plain.split(b'"')[::2] for n in _counts(piece, *_MARKS)), limit)


def _counts(raw: bytes, *characters: bytes) -> Iterator[int]:
    """How many of these characters each piece of a text holds."""
    for start in range(0, len(raw), _PIECE_BYTES):
        yield sum(raw.count(character, start, start + _PIECE_BYTES) for character in characters)


def _exceed(counts: Iterable[int], limit: int) -> bool:
    """Whether counts add up to more than a limit. Stops where they do."""
    return any(total > limit for total in accumulate(counts))


def _items(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()

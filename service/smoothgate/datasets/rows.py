"""One row of the table for each picture: its certificate, or why there is none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypedDict, cast

from smoothgate.errors import SmoothgateError
from smoothgate.schemas import IssuedCertificate

if TYPE_CHECKING:
    import pyarrow as pa


class Row(TypedDict):
    """The columns. Without a certificate, all but `path`, `error_code` and `error` are None.

    Distances are l2, `radius` in the encoder's input space and `radius_upload` in the uploaded picture's own
    pixels, both at `cosine_threshold`.
    """

    path: str
    error_code: str | None
    error: str | None
    sha256: str | None
    outcome: str | None
    radius: float | None
    radius_upload: float | None
    cosine_threshold: float | None
    score_estimate: float | None
    score_lower: float | None
    sigma: float | None
    alpha: float | None
    n_select: int | None
    n_certify: int | None
    stop_reason: str | None
    seed: str | None
    model_digest: str | None
    time: str | None
    jws: str | None


_TEXTS = (
    "path",
    "error_code",
    "error",
    "sha256",
    "outcome",
    "stop_reason",
    "seed",
    "model_digest",
    "time",
    "jws",
)
_WHOLE = ("n_select", "n_certify")


def row_of(path: str, certificate: IssuedCertificate | None, error: SmoothgateError | None) -> Row:
    """The row of a picture."""
    row: dict[str, Any] = dict.fromkeys(Row.__annotations__)
    row["path"] = path
    if error is not None:
        row |= {"error_code": error.code, "error": error.message}
    if certificate is not None:
        shown = certificate.model_dump(mode="json")
        row |= {
            name: shown[name] for name in ("outcome", "score_estimate", "score_lower", "alpha", "time", "jws")
        }
        row |= {name: shown["noise"][name] for name in ("sigma", "n_select", "n_certify", "seed")}
        row |= {
            "sha256": shown["image"]["sha256"],
            "radius": shown["radius"]["value"],
            "radius_upload": shown["radius"]["upload"],
            "cosine_threshold": shown["radius"]["cosine_threshold"],
            "stop_reason": shown["stop_reason"],
            "model_digest": shown["model"]["digest"],
        }
    return cast(Row, row)


def table(rows: Sequence[Row]) -> pa.Table:
    """The rows as a table of Arrow, with the same types however they are filled."""
    import pyarrow as pa

    types = {name: pa.float64() for name in Row.__annotations__}
    types |= dict.fromkeys(_TEXTS, pa.string()) | dict.fromkeys(_WHOLE, pa.int64())
    return pa.Table.from_pylist(list(rows), schema=pa.schema(list(types.items())))

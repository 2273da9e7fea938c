"""The pace of `smoothgate certify` beside that of its sampler alone, on the same pictures, in turn."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

from smoothgate.certifier import Certifier
from smoothgate.certify.signing import SigningKey
from smoothgate.datasets.certifying import certified_by
from smoothgate.datasets.rows import Row
from smoothgate.datasets.run_folder import RunFolder
from smoothgate.sampling import noise
from smoothgate.sampling.ticket import SamplingTask, Ticket
from smoothgate.schemas import SmoothingOptions
from smoothgate.vision import decode

_LARGEST = 10**6


def measure(
    folder: Path,
    paths: Sequence[str],
    terms: Mapping[str, Any],
    secret: Path,
    rounds: int,
    step: Callable[[int], None],
) -> tuple[dict[str, Any], list[Row]]:
    """Certify pictures in rounds, each with its share of them, and let the sampler alone draw for the same.

    Both use the same sampler. What the command does after it has loaded the model is measured: reading,
    decoding, sampling, bounds, signature, the row on the disk, the table.

    Args:
        folder: for the tables; it is there.
        paths: of the pictures, in the order in which they are certified.
        terms: of the run, as `Certifier` takes them, with its device.
        secret: file of the secret of the noise.
        rounds: number of rounds, not more than there are pictures.
        step: called with the number of pictures so far, of both sides together.

    Returns:
        The figures: `start_seconds` (model, sampler), `certify` and `sampler` in pictures a second, medians
        of the rounds, `samples` of a picture, `ratios` of the rounds, and their median `ratio`. And the rows
        of all pictures.
    """
    key = folder / "signing-key.pem"
    key.write_text(SigningKey.generate().pem())
    began = time.perf_counter()
    rates: dict[str, list[float]] = {"certify": [], "sampler": []}
    rows: list[Row] = []
    with Certifier(**terms, signing_key_file=str(key), noise_secret_file=str(secret)) as certifier:
        start_seconds = time.perf_counter() - began
        done = 0
        for number in range(rounds):
            part = paths[number * len(paths) // rounds : (number + 1) * len(paths) // rounds]
            out = folder / f"round-{number}.parquet"
            sides: dict[str, Callable[[], float]] = {
                "certify": partial(_certified, certifier, part, out, terms, key, secret),
                "sampler": partial(_sampled, certifier, part),
            }
            for side in sides if number % 2 == 0 else reversed(sides):
                rates[side].append(len(part) / sides[side]())
                done += len(part)
                step(done)
            rows += table_rows(out)
    ratios = [one / other for one, other in zip(rates["certify"], rates["sampler"], strict=True)]
    figures = {
        "start_seconds": start_seconds,
        **{side: statistics.median(each) for side, each in rates.items()},
        "samples": terms["n_select"] + terms["n_certify"],
        "ratios": ratios,
        "ratio": statistics.median(ratios),
    }
    return figures, rows


def table_rows(out: Path) -> list[Row]:
    """The rows of a table of certificates."""
    import pyarrow.parquet as pq

    return cast(list[Row], pq.read_table(out).to_pylist())


def _certified(
    certifier: Certifier,
    paths: Sequence[str],
    out: Path,
    terms: Mapping[str, Any],
    key: Path,
    secret: Path,
) -> float:
    """Seconds for a table, as the command makes it."""
    began = time.perf_counter()
    with RunFolder(out, dict(terms), signing_key=key, noise_secret=secret) as run:
        for row in certified_by(certifier, paths):
            run.add(row)
        run.finish(paths)
    return time.perf_counter() - began


def _sampled(certifier: Certifier, paths: Sequence[str]) -> float:
    """Seconds of the sampler alone, for canvases in memory that are all queued at once."""
    service = certifier.service
    smoother = service.smoother.loaded
    plan = service.policy.plan(SmoothingOptions())
    terms = plan.terms(1, smoother.chance_cosine(plan.sigma))
    tickets = []
    for path in paths:
        canvas = smoother.encoder.adapter.canvas(decode(Path(path).read_bytes(), max_pixels=_LARGEST))
        task = SamplingTask(canvas.x, terms, plan.n_select, plan.n_certify, canvas.layout)
        tickets.append(Ticket(task, noise.fresh_seed()))
    began = time.perf_counter()
    for ticket in tickets:
        smoother.sampler.submit(ticket)
    for ticket in tickets:
        ticket.result.result()
    return time.perf_counter() - began

"""`smoothgate certify`: the certificates of a data set, in one table."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from smoothgate.cli.common import OtherModel, console, errors, failures
from smoothgate.errors import MalformedRequest
from smoothgate.extras import require

if TYPE_CHECKING:
    from smoothgate.datasets.rows import Row

# Errors of the service and not of the picture: a run that is resumed tries again.
_PASSING = {"not_ready", "sampler_failed", "sampler_down", "internal_error", "request_timeout", "closed"}


def certify(
    pictures: Annotated[
        list[str],
        typer.Argument(help="Folders, patterns, lists of paths (FILE.txt, or - for the standard input)."),
    ],
    out: Annotated[Path, typer.Option(help="The table to make, as Parquet.")],
    model: OtherModel = None,
    psm: Annotated[
        Path | None, typer.Option(help="Folder of the calibration; left out: the bundled one.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N.")] = "auto",
    sigma: Annotated[float, typer.Option(help="Standard deviation of the noise.")] = 0.5,
    n_select: Annotated[int, typer.Option(help="Samples that choose the features.")] = 128,
    n_certify: Annotated[int, typer.Option(help="Fresh samples behind the bounds.")] = 256,
    alpha: Annotated[float, typer.Option(help="Probability that a certificate is false.")] = 0.001,
    family_wise: Annotated[
        bool, typer.Option("--family-wise", help="alpha is that of any false certificate in the table.")
    ] = False,
    cosine: Annotated[float, typer.Option(help="Cosine at which the radius is reported.")] = 0.5,
    signing_key: Annotated[
        Path | None, typer.Option(help="Key that signs (`smoothgate keys new`); left out: one of this run.")
    ] = None,
    noise_secret: Annotated[
        Path | None,
        typer.Option(help="Secret of the noise (`smoothgate keys noise-secret`); left out: one of this run."),
    ] = None,
    threads: Annotated[
        int, typer.Option(min=0, help="CPU threads of the sampler; 0: one for each core.")
    ] = 0,
    batch_size: Annotated[int, typer.Option(min=0, help="Samples in a batch; 0: measured at the start.")] = 0,
    ray: Annotated[bool, typer.Option("--ray", help="Certify on Ray Data; needs the extra `ray`.")] = False,
    ray_address: Annotated[
        str | None, typer.Option(help="Cluster of Ray; left out: one is started on this machine.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Actors on Ray; left out: one for each GPU, or a single one.")
    ] = None,
) -> None:
    """Certify every picture of a data set into one table, with a row for each, also where one fails.

    A run that is ended goes on where it was when it is started again. Beside the table come the public keys
    (.keys.json) and a plot of the certified share against the radius (.svg).
    """
    with failures():
        require("ray" if ray or ray_address else "data", "`smoothgate certify`")
        from smoothgate.datasets.picture_lists import listed
        from smoothgate.datasets.run_folder import RunFolder
        from smoothgate.vision import hide_progress

        hide_progress()
        if workers is not None and not (ray or ray_address):
            raise MalformedRequest("--workers goes with --ray.")
        paths = listed(pictures)
        terms: dict[str, Any] = {
            "model": model,
            "psm": None if psm is None else str(psm.resolve()),
            "sigma": sigma,
            "n_select": n_select,
            "n_certify": n_certify,
            "alpha": alpha / len(paths) if family_wise else alpha,
            "cosine_threshold": cosine,
        }
        with RunFolder(out, terms, signing_key=signing_key, noise_secret=noise_secret) as run:
            done = {path for path, row in run.rows.items() if row["error_code"] not in _PASSING}
            left = [path for path in paths if path not in done]
            for path in run.rows.keys() - done:
                del run.rows[path]
            settings = terms | {
                "device": device,
                "batch_size": batch_size,
                "threads": threads,
                "signing_key_file": str(run.signing_key.resolve()),
                "noise_secret_file": str(run.noise_secret.resolve()),
            }
            pace = _Pace()
            rows = _rows(left, settings, pace, ray=ray, address=ray_address, workers=workers)
            _follow(rows, run.add, len(paths), len(paths) - len(left))
            pace.ended()
            fresh = [run.rows[path] for path in left]
            run.finish(paths)
            _report([run.rows[path] for path in paths], fresh, pace, out)


class _Pace:
    """How long a run took, without the time to load the model where that is known."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self.seconds: float | None = None
        self.busy: float | None = None

    def told(self, seconds: float, busy: float) -> None:
        self.seconds, self.busy = seconds, busy

    def ended(self) -> None:
        if self.seconds is None:
            self.seconds = time.perf_counter() - self._began


def _rows(
    paths: Sequence[str],
    settings: dict[str, Any],
    pace: _Pace,
    *,
    ray: bool,
    address: str | None,
    workers: int | None,
) -> Iterator[Row]:
    from smoothgate.datasets.certifying import certified_here, certified_on_ray

    if not paths:
        return iter(())
    if ray or address is not None:
        return certified_on_ray(paths, settings, address=address, workers=workers)
    return certified_here(paths, settings, pace.told)


def _follow(rows: Iterator[Row], keep: Callable[[Row], None], total: int, done: int) -> None:
    from smoothgate.progress import progress

    failed = 0
    with progress("{task.fields[failed]} failed", console=errors) as bar:
        task = bar.add_task("certifying", total=total, completed=done, failed=0)
        for row in rows:
            keep(row)
            failed += row["error_code"] is not None
            bar.update(task, advance=1, failed=failed)


def _report(rows: Sequence[Row], fresh: Sequence[Row], pace: _Pace, out: Path) -> None:
    from smoothgate.datasets.run_folder import keys_file
    from smoothgate.datasets.summary import RADII, Summary, plot

    summary = Summary.of(rows)
    picture = out.with_suffix(".svg")
    picture.write_text(plot(summary))
    console.print(f"{out}: {summary.pictures} pictures", soft_wrap=True)
    for name, number in sorted((summary.outcomes | summary.errors).items()):
        console.print(f"  {name:20} {number}")
    shares = Table("radius", "certified share")
    for radius in RADII:
        shares.add_row(f"{radius:g}", f"{100 * summary.share(radius):.1f} %")
    console.print(shares)
    if summary.median_radius is not None:
        console.print(f"median radius {summary.median_radius:.3f}")
    console.print(
        f"At most {summary.false_statements:.3g} of the certificates are expected to be false (sum of alpha)."
    )
    samples = sum((row["n_select"] or 0) + (row["n_certify"] or 0) for row in fresh)
    if samples and pace.seconds:
        rate = len(fresh) / pace.seconds
        console.print(
            f"{rate:.2f} pictures and {samples / pace.seconds:.0f} samples a second; at this rate a million "
            f"pictures take {1e6 / rate / 3600:.0f} hours"
        )
    if pace.busy is not None:
        console.print(f"the sampler was busy for {100 * pace.busy:.1f} % of the time")
    if len(summary.models) > 1:
        errors.print("The model was changed during the run: certificates name several.", style="yellow")
    console.print(f"plot: {picture}; public keys: {keys_file(out)}", soft_wrap=True)

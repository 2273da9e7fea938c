"""`smoothgate bench`: measurements."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from service.cli.common import Json, OtherModel, console, failures, load_adapter, write

app = typer.Typer(no_args_is_help=True, help="Measurements.")


@app.command("certify")
def bench_certify(
    repeats: Annotated[int, typer.Option(min=1, help="Runs to average over.")] = 5,
    seed: Annotated[int, typer.Option(help="Seed of the simulated scores.")] = 0,
    plot: Annotated[
        Path | None, typer.Option(help="Also draw the bounds into this SVG (extra `dev`).")
    ] = None,
    json_file: Json = None,
) -> None:
    """How tight the bounds are on scores of a known distribution, beside other methods."""
    from service.certify import bench

    rows = bench.run(repeats, seed)
    table = Table(
        "quantity", "method", "n", "eps / sigma", "value", "required", title="Tightness of the bounds"
    )
    for row in rows:
        cells = (row["quantity"], row["method"], row["n"], row["eps"], row["value"], row["required"])
        table.add_row(*("" if c is None else f"{c:.3f}" if isinstance(c, float) else str(c) for c in cells))
    console.print(table)
    write(json_file, {"repeats": repeats, "seed": seed, "rows": rows})
    if plot is not None:
        from service.certify.plot import plot_bench

        plot_bench(rows, plot)


@app.command("resize")
def bench_resize(
    model: OtherModel = None,
    seed: Annotated[int, typer.Option(help="Seed of the pictures.")] = 0,
    json_file: Json = None,
) -> None:
    """How far the float resize, which certificates need, is from the checkpoint's own 8-bit processor."""
    from service.vision import bench

    with failures():
        adapter = load_adapter(model)
    rows = bench.run(adapter, seed)
    table = Table(
        "picture", "size", "mean / 255", "max / 255", "cosine of tokens", title="Float against 8-bit resize"
    )
    for row in rows:
        size = f"{row['width']} x {row['height']}"
        table.add_row(
            str(row["kind"]), size, f"{row['mean']:.2f}", f"{row['max']:.2f}", f"{row['cosine']:.5f}"
        )
    console.print(table)
    write(json_file, {"seed": seed, "rows": rows})

"""`smoothgate bench`: measurements."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from smoothgate.cli.common import (
    Json,
    OtherModel,
    console,
    errors,
    failures,
    load_adapter,
    load_encoder,
    write,
)

app = typer.Typer(no_args_is_help=True, help="Measurements.")

# The largest accepted growth of the service's resident memory in a soak.
_MOST_GROWTH = 0.05
# A small cache is full before growth is measured. Filling a large one would look like a leak.
_SOAKED = {"SMOOTHGATE_CACHE_MIB": "4"}


@app.command("certify")
def bench_certify(
    repeats: Annotated[int, typer.Option(min=1, help="Runs to average over.")] = 5,
    seed: Annotated[int, typer.Option(help="Seed of the simulated scores.")] = 0,
    plot: Annotated[Path | None, typer.Option(help="Also draw the bounds into this SVG.")] = None,
    json_file: Json = None,
) -> None:
    """Measure how tight the bounds are on scores of a known distribution, compared with other methods.

    Also prints what the radius of a certified answer costs, and what it means at several resolutions.
    """
    from smoothgate_lab.benchmarks import answer_radii, bounds_bench

    rows = bounds_bench.run(repeats, seed)
    table = Table(
        *("quantity", "method", "n", "eps / sigma", "cosine", "value", "required"),
        title="Tightness of the bounds",
    )
    for row in rows:
        cells = (row[name] for name in ("quantity", "method", "n", "eps", "cosine", "value", "required"))
        table.add_row(*("" if c is None else f"{c:.3f}" if isinstance(c, float) else str(c) for c in cells))
    console.print(table)
    answers = answer_radii.run()
    samples = Table("radius / sigma", "samples", title="Fresh samples of a certified answer, if all agree")
    for row in answers["samples"]:
        samples.add_row(f"{row['radius']:g}", f"{row['samples']:,}")
    console.print(samples)
    levels = Table("canvas", "l2 radius", "levels of 255", title="A radius that is spread evenly")
    for row in answers["levels"]:
        levels.add_row(f"{row['side']} x {row['side']}", f"{row['radius']:g}", f"{row['levels']:.2f}")
    console.print(levels)
    write(json_file, {"repeats": repeats, "seed": seed, "rows": rows, "answers": answers})
    if plot is not None:
        from smoothgate_lab.benchmarks.bounds_plot import plot_bench

        plot_bench(rows, plot)


@app.command("resize")
def bench_resize(
    model: OtherModel = None,
    seed: Annotated[int, typer.Option(help="Seed of the pictures.")] = 0,
    json_file: Json = None,
) -> None:
    """Measure how far the float resize of certificates is from the checkpoint's own 8-bit processor."""
    from smoothgate_lab.benchmarks import resize_bench

    with failures():
        adapter = load_adapter(model)
    rows = resize_bench.run(adapter, seed)
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


@app.command("sampler")
def bench_sampler(
    quick: Annotated[bool, typer.Option(help="Measure very little, to check that it works.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Also draw the growth of cost into this SVG.")] = None,
    json_file: Json = None,
) -> None:
    """Compare the sampler with the bare forward and plainer methods, on the demo model."""
    from smoothgate_lab.benchmarks.sampler_bench import QUICK, Size, run

    size = QUICK if quick else Size()
    with failures():
        encoder = load_encoder(None, None)
        figures = run(encoder, size, console)
    rates = Table("method", "samples / s", "sampler is", title="16 requests of 64 to 2,048 samples")
    for method, rate in figures["throughput"]["samples_per_second"].items():
        rates.add_row(method, f"{rate:.0f}", f"{figures['throughput']['sampler_to'][method]:.2f} times that")
    console.print(rates)
    rest = Table("quantity", "value", title="One request, and stopping early", show_header=False)
    latency, memory, early = figures["latency"], figures["memory"], figures["early_stop"]
    rest.add_row("n = 64, alone", f"{latency['alone'] * 1000:.0f} ms")
    rest.add_row(
        f"n = 64, while n = {size.large:,} runs",
        f"{latency['beside'] * 1000:.0f} ms, {latency['ratio']:.2f} times that",
    )
    rest.add_row("peak memory, n = 64", f"{memory['small'] / 2**20:.0f} MiB")
    rest.add_row(
        f"peak memory, n = {size.large:,}",
        f"{memory['large'] / 2**20:.0f} MiB, {memory['ratio']:.3f} times that",
    )
    rest.add_row("samples drawn when stopping early", f"{early['share_drawn']:.1%} of the budget")
    rest.add_row("verdicts as with the whole budget", f"{early['verdicts_equal']:.1%}")
    rest.add_row("of which certified", f"{early['certified']:.1%}")
    console.print(rest)
    growth = Table("what grows", "to", "seconds", title="How cost grows")
    for what, rows in figures["growth"].items():
        for row in rows:
            growth.add_row(what, f"{row['at']:g}", f"{row['seconds']:.4f}")
    console.print(growth)
    write(json_file, figures)
    if plot is not None:
        from smoothgate_lab.benchmarks.growth_plot import plot_growth

        plot_growth(figures["growth"], plot)


@app.command("device")
def bench_device(
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N; auto: CUDA where there is one.")] = "auto",
    dtype: Annotated[
        str, typer.Option(help="float32, bfloat16 or float16; auto: as the service chooses.")
    ] = "auto",
    small: Annotated[bool, typer.Option(help="A very small encoder and few samples, as for a CPU.")] = False,
    json_file: Json = None,
) -> None:
    """Check the sampler on a device, and measure it at the size of LLaVA-1.5-7B's vision tower.

    Weights are random, so nothing is downloaded. Fails if a check fails.
    """
    from smoothgate.gate.served_model import ServedModel
    from smoothgate_lab.benchmarks.device_bench import SMALL, Amount, run

    with failures(), console.status("Starting") as status:
        served = ServedModel.of(None, name=None, psm=None, device=device, dtype=dtype)
        figures = run(
            served.devices[0], served.dtype, SMALL if small else Amount(), lambda name: status.update(name)
        )
    machine = figures["machine"]
    checks = Table("check", "", "largest difference", "allowed", "", title=" ".join(machine.values()))
    for row in figures["checks"]:
        numbers = ("" if row[key] is None else f"{row[key]:.1e}" for key in ("difference", "tolerance"))
        checks.add_row(
            row["name"], "[green]ok[/]" if row["passed"] else "[red]FAILS[/]", *numbers, row["detail"]
        )
    console.print(checks)
    speed = Table(
        *("purifier", "bare forward", "with noise and scores", "share of it", "samples", "a picture takes"),
        title=f"Samples per second, batches of {figures['amount']['batch']}",
    )
    for row in figures["speed"]:
        speed.add_row(
            row["purifier"],
            f"{row['bare']:.0f}",
            f"{row['batches']:.0f}",
            f"{row['share']:.2f}",
            str(row["samples"]),
            f"{row['seconds']:.2f} s",
        )
    console.print(speed)
    console.print(f"All of it took {figures['seconds']:.0f} s.")
    write(json_file, figures)
    if not all(row["passed"] for row in figures["checks"]):
        raise typer.Exit(1)


@app.command("serving")
def bench_serving(
    repeats: Annotated[int, typer.Option(min=1, help="Requests of each kind.")] = 30,
    json_file: Json = None,
) -> None:
    """Compare the service with vLLM alone, on the demo model. Starts both."""
    # torch reads it at its first import. Threads that wait by spinning would take vLLM's cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from smoothgate import logs
    from smoothgate.progress import progress
    from smoothgate_lab.benchmarks.serving_bench import LARGE_BUDGET, TEXT_TIMES, run

    logs.configure("console", "error")
    with failures(), progress(console=console) as bar:
        task = bar.add_task("rounds, after the start", total=(TEXT_TIMES + 3) * repeats)
        figures = run(repeats, lambda: bar.advance(task))
    table = Table(
        "request",
        "Smoothgate",
        "vLLM alone",
        "ratio",
        title=f"Medians of {repeats} requests, text {TEXT_TIMES * repeats}",
    )
    for name, label in (("text", "text only"), ("picture", "a picture, n = 64")):
        row = figures[name]
        cells = (f"{row[side] * 1000:.1f} ms" for side in ("smoothgate", "vllm"))
        table.add_row(label, *cells, f"{row['ratio']:.3f}")
    console.print(table)
    first = figures["first_token"]
    console.print(
        f"First token of a picture's answer, n = 1,024: {first['beside']:.3f} s with certification during "
        f"generation, {first['first']:.3f} s with certification before it ({first['ratio']:.2f} times that)"
    )
    budget = figures["budget"]
    console.print(
        f"A picture's whole answer: {budget['default']:.3f} s with the default terms, "
        f"{budget['large']:.3f} s with n_certify {LARGE_BUDGET:,} ({budget['ratio']:.2f} times that)"
    )
    stages = Table("stage", "takes", title="Where the time of a picture, n = 64, goes")
    for name, taken in figures["stages"].items():
        stages.add_row(name, f"{taken * 1000:.1f} ms")
    console.print(stages)
    write(json_file, figures)


@app.command("answers")
def bench_answers(
    quick: Annotated[bool, typer.Option(help="Measure very little, to check that it works.")] = False,
    samples: Annotated[
        int | None,
        typer.Option(min=32, help="Of each request. [default: 512, with --quick 64]", show_default=False),
    ] = None,
    json_file: Json = None,
) -> None:
    """Measure certified answers on the demo model: how fast, and what one costs. Starts the service and vLLM.

    Sampler and vLLM get half of the cores each, together as alone. Needs Linux and two cores.
    """
    # torch reads it at its first import. Threads that wait by spinning would take the service's own cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from smoothgate import logs
    from smoothgate.progress import progress
    from smoothgate_lab.benchmarks.answers_bench import QUICK, SIGMA, Amount, run

    logs.configure("console", "error")
    amount = QUICK if quick else Amount()
    if samples is not None:
        amount = replace(amount, samples=samples)
    with failures(), progress(console=console) as bar:
        task = bar.add_task("rounds and pictures, after the start", total=amount.rounds + amount.pictures)
        figures = run(amount, lambda: bar.advance(task))
    rates = Table(
        "",
        "samples / s",
        title=f"{amount.requests} requests of {amount.samples} samples, cores of each stage: "
        f"{figures['cores']}",
    )
    labels = {"answered": "answered", "sampler": "the sampler alone", "engine": "vLLM alone"}
    for name, label in labels.items():
        rates.add_row(label, f"{figures['samples_per_second'][name]:.0f}")
    rates.add_row("answered, to the slower stage", f"{figures['share']:.2f} times that")
    console.print(rates)
    costs = Table("certified at R = sigma", "samples", "seconds", "pictures certified", title="One picture")
    cosine = figures["features"]["cosine"]
    for name, label in (("answer", "the answer"), ("features", f"features, cosine {cosine:g}")):
        row = figures[name]
        costs.add_row(label, f"{row['samples']:g}", f"{row['seconds']:.3f}", f"{row['certified']:.0%}")
    console.print(costs)
    console.print(f"sigma = {SIGMA:g}; medians of {amount.rounds} rounds and {amount.pictures} pictures")
    write(json_file, figures)


@app.command("datasets")
def bench_datasets(
    pictures: Annotated[
        int | None,
        typer.Option(help="Pictures of each run, at least 40. [default: 1000]", show_default=False),
    ] = None,
    n_select: Annotated[
        int | None, typer.Option(help="Samples that choose the features. [default: 128]", show_default=False)
    ] = None,
    n_certify: Annotated[
        int | None,
        typer.Option(help="Fresh samples behind the bounds. [default: 256]", show_default=False),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the scenes and of the secret of the noise.")] = 0,
    quick: Annotated[bool, typer.Option(help="Measure very little, to check that it works.")] = False,
    json_file: Json = None,
) -> None:
    """Certify held-out pictures with a kill in the middle, alone and on Ray, and compare tables and pace.

    Fails if a picture is missing, double, without a certificate, or has another certificate. Needs Linux and
    the extra `ray`.
    """
    from smoothgate import logs
    from smoothgate.extras import require
    from smoothgate.progress import progress

    logs.configure("console", "error")
    with failures():
        require("ray", "`smoothgate bench datasets`")
        from smoothgate.vision import hide_progress
        from smoothgate_lab.benchmarks.datasets_bench import QUICK, Amount, run

        hide_progress()
        given = {"pictures": pictures, "n_select": n_select, "n_certify": n_certify}
        named = {name: number for name, number in given.items() if number is not None}
        amount = replace(QUICK if quick else Amount(), **named)
        with progress(console=console) as bar:

            def begin(part: str, total: int) -> Callable[[int], None]:
                task = bar.add_task(part, total=total)
                return lambda done: bar.update(task, completed=done)

            figures = run(amount, seed, begin)
    machine = figures["machine"]
    console.print(f"{machine['device']}, {machine['cores']} cores, torch {machine['torch']}")
    killed = Table(
        *("run", "killed with", "first row after", "took"),
        title=f"{amount.pictures} pictures, {amount.n_select} + {amount.n_certify} samples each",
    )
    labels = {
        "alone": "alone, its process killed",
        "ray": f"{figures['runs']['ray']['workers']} workers on Ray, one killed",
    }
    for name, label in labels.items():
        row = figures["runs"][name]
        killed.add_row(
            label, f"{row['kept']} rows", f"{row['first_row_seconds']:.1f} s", f"{row['seconds']:.0f} s"
        )
    console.print(killed)
    compared = figures["comparisons"]
    tables = Table(
        "pictures", *(" and ".join(row["tables"]) for row in compared), title="Tables, two at a time"
    )
    for kind in ("missing", "double", "foreign", "failed", "different", "identical"):
        tables.add_row(kind, *(str(row[kind]) for row in compared))
    tables.add_row(
        "largest difference, allowed", *(f"{row['largest']:.1e}, {row['tolerance']:.0e}" for row in compared)
    )
    tables.add_row("equal", *("[green]yes[/]" if row["equal"] else "[red]NO[/]" for row in compared))
    console.print(tables)
    pace = figures["pace"]
    rates = Table("", "pictures / s", "samples / s", title=f"Pace, medians of {amount.rounds} rounds in turn")
    for name, label in (("certify", "certify, undisturbed"), ("sampler", "the sampler alone")):
        rates.add_row(label, f"{pace[name]:.2f}", f"{pace[name] * pace['samples']:.0f}")
    rates.add_row("certify, to the sampler", f"{pace['ratio']:.3f}", "")
    console.print(rates)
    console.print(f"Before that, the start (model, sampler) took {pace['start_seconds']:.1f} s.")
    write(json_file, figures)
    for row in compared:
        for kind, found in row["examples"].items():
            errors.print(f"{' and '.join(row['tables'])}: {kind}: {found}", style="red", markup=False)
    if not all(row["equal"] for row in compared):
        raise typer.Exit(1)


@app.command("soak")
def bench_soak(
    seconds: Annotated[float, typer.Option(min=5, help="Length of the run in seconds.")] = 900.0,
    clients: Annotated[int, typer.Option(min=1, help="Clients at a time, each with one request.")] = 8,
    seed: Annotated[int, typer.Option(help="Seed of the order of the requests.")] = 1,
    url: Annotated[
        str | None, typer.Option(help="Service to load, without keys. By default the demo's is started.")
    ] = None,
    json_file: Json = None,
) -> None:
    """Load the service fully, and measure lost requests, growth of memory and the slowest requests.

    Fails if a request was lost or if memory grew by more than 5 %.
    """
    from smoothgate.progress import progress
    from smoothgate_lab.benchmarks.soak import run
    from smoothgate_lab.evaluation.running_service import running

    with failures(), ExitStack() as stack:
        pid = None
        if url is None:
            console.print("Starting the service.")
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            service = stack.enter_context(running(Path(folder) / "service.log", _SOAKED))
            url, pid = service.url, service.pid
        bar = stack.enter_context(progress(console=console))
        task = bar.add_task("soak", total=seconds)
        figures = run(url, pid, seconds, clients, seed, lambda now: bar.update(task, completed=now))
    table = Table("request", "answered", "p50", "p99", "p99 / p50", title=f"{clients} clients, {seconds:g} s")
    for kind, row in figures["latency"].items():
        table.add_row(
            kind, str(row["n"]), f"{row['p50']:.3f} s", f"{row['p99']:.3f} s", f"{row['ratio']:.2f}"
        )
    console.print(table)
    statuses = ", ".join(f"{count} of {status}" for status, count in figures["statuses"].items())
    console.print(f"{figures['requests']} requests: {statuses}; {figures['lost_count']} lost")
    memory = figures["memory"]
    if memory is not None:
        console.print(
            f"Resident memory {memory['start'] / 2**20:.0f} MiB, then {memory['end'] / 2**20:.0f} MiB "
            f"({memory['growth']:+.2%}); slope {memory['slope'] / 2**20:+.1f} MiB per hour"
        )
    for lost in figures["lost"]:
        console.print(lost, style="red")
    write(json_file, figures)
    if figures["lost_count"] or (memory is not None and memory["growth"] > _MOST_GROWTH):
        raise typer.Exit(1)


@app.command("scaling")
def bench_scaling(
    seed: Annotated[int, typer.Option(help="Seed of the simulated requests.")] = 0,
    json_file: Json = None,
) -> None:
    """Estimate what a certified answer costs on GPUs, and simulate gates and vLLMs under a rush."""
    from smoothgate_lab.benchmarks.scaling import run

    figures = run(seed)
    costs = Table(
        *(
            "model",
            "GPU",
            "GFLOP / sample",
            "samples / s",
            "GPU s to certify",
            "GPU s to answer",
            "answers / s",
            "both / GPU h",
        ),
        title=f"Estimates from operation counts, {figures['samples']} samples per picture",
    )
    for row in figures["costs"]:
        costs.add_row(
            row["model"],
            row["gpu"],
            f"{row['sample_gflop']:.0f}",
            f"{row['samples_per_second']:.0f}",
            f"{row['certify_seconds']:.2f}",
            f"{row['answer_seconds']:.3f}",
            f"{row['answers_per_second']:.1f}",
            f"{row['answers_per_gpu_hour']:.0f}",
        )
    console.print(costs)
    titles = {
        "gates": "Simulated rush: gates, LLaVA-1.5-7B on H100",
        "early": "The same, stopping early",
        "signals": "The same, by the scaling signal",
    }
    for name, title in titles.items():
        table = Table(
            *("requests / s", "signal", "queue / gate", "busy", "gates", "most", "p50", "p99", "p99 of all"),
            "refused",
            title=title,
        )
        for row in figures[name]:
            table.add_row(
                f"{row['rate']:g}",
                row["signal"],
                f"{row['threshold']:g} s",
                f"{row['needed']:.1f}",
                f"{row['gates']:.1f}",
                str(row["most"]),
                *(f"{row[key]:.1f} s" for key in ("p50", "p99", "worst")),
                f"{row['refused']:.1%}",
            )
        console.print(table)
    table = Table(
        *("requests / s", "vLLMs", "sequences", "p99 wait", "p50 answer", "embeddings"),
        title="vLLMs behind them",
    )
    for row in figures["engines"]:
        table.add_row(
            f"{row['rate']:g}",
            str(row["engines"]),
            str(row["sequences"]),
            f"{row['wait_p99']:.1f} s",
            f"{row['answer_p50']:.1f} s",
            f"{row['embedding_gbit']:.2f} Gbit/s",
        )
    console.print(table)
    write(json_file, figures)

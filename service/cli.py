"""The command-line tool `smoothgate`."""

from __future__ import annotations

import dataclasses
import json
import os
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import httpx
import typer
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from service import __version__, logs
from service.compat import torch_extensions
from service.errors import MalformedRequest, SmoothgateError
from service.settings import Settings, render_env_example, render_markdown

if TYPE_CHECKING:
    from service.smoothing.encoder import UnitEncoder

torch_extensions.install()

app = typer.Typer(
    no_args_is_help=True, pretty_exceptions_enable=False, help="Certified visual robustness in front of vLLM."
)
demo_app = typer.Typer(no_args_is_help=True, help="The bundled demo model.")
psm_app = typer.Typer(no_args_is_help=True, help="What smoothing needs per model.")
bench_app = typer.Typer(no_args_is_help=True, help="Measurements.")
app.add_typer(demo_app, name="demo")
app.add_typer(psm_app, name="psm")
keys_app = typer.Typer(no_args_is_help=True, help="Keys that certificates are signed with.")
app.add_typer(bench_app, name="bench")
app.add_typer(keys_app, name="keys")

console = Console()
errors = Console(stderr=True)

Json = Annotated[Path | None, typer.Option("--json", help="Also write the figures to this file.")]
Model = Annotated[str, typer.Option("--model", help="Checkpoint: a folder or a Hugging Face id.")]


class Format(StrEnum):
    """What `settings` prints."""

    ENV = "env"
    MARKDOWN = "markdown"


@app.command()
def serve() -> None:
    """Start the service; settings come from the environment and `.env` (`smoothgate settings`)."""
    from service.serving import serve as run

    settings = _settings()
    logs.configure(settings.log_format, settings.log_level)
    with _failures():
        if not run(settings, console):
            raise typer.Exit(1)


@app.command()
def settings(
    form: Annotated[
        Format, typer.Option("--format", help="As .env.example or docs/settings.md.")
    ] = Format.MARKDOWN,
) -> None:
    """Print every setting with its meaning."""
    typer.echo(render_env_example() if form is Format.ENV else render_markdown(), nl=False)


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(__version__)


@keys_app.command("new")
def keys_new(
    output: Annotated[Path, typer.Option(help="File for the private key; it must not exist yet.")],
) -> None:
    """Make an Ed25519 key to sign certificates with (SMOOTHGATE_SIGNING_KEY_FILE)."""
    from service.certify.signing import SigningKey

    key = SigningKey.generate()
    try:
        descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        errors.print(f"{output}: {error.strerror}", style="red")
        raise typer.Exit(1) from None
    with os.fdopen(descriptor, "w") as file:
        file.write(key.pem())
    console.print(f"Wrote {output}; its key id is {key.kid}")


@app.command("verify")
def verify_certificate(
    certificate: Annotated[
        Path,
        typer.Argument(exists=True, dir_okay=False, help="A JWS, a certificate, or a whole answer as JSON."),
    ],
    keys: Annotated[str, typer.Option(help="Key set: a file, or the URL of /.well-known/jwks.json.")],
    image: Annotated[
        list[Path] | None,
        typer.Option(
            exists=True, dir_okay=False, help="The uploaded pictures, in the order of the certificates."
        ),
    ] = None,
    model: Annotated[str | None, typer.Option(help="Checkpoint; left out: the bundled demo model.")] = None,
    psm: Annotated[
        Path | None, typer.Option(help="Folder of the calibration; left out: the bundled one.")
    ] = None,
    signature_only: Annotated[bool, typer.Option(help="Do not replay the noise.")] = False,
) -> None:
    """Check certificates: signature and shown fields; with --image also picture, model, and every bound by
    replay.
    """
    from service.verification import check, read

    pictures = image or []
    with _failures():
        found = read(certificate.read_text())
        if len(pictures) > len(found):
            raise MalformedRequest(f"{len(pictures)} pictures for {len(found)} certificates.")
        key_set = _key_set(keys)
        encoder = _load_encoder(model, psm) if pictures and not signature_only else None
        failed = False
        for number, (jws, plain) in enumerate(found):
            data = pictures[number].read_bytes() if number < len(pictures) else None
            table = Table("check", "", "", title=f"Certificate {number + 1} of {len(found)}")
            for each in check(jws, plain, key_set, data, encoder):
                failed |= not each.passed
                table.add_row(each.name, "[green]ok[/]" if each.passed else "[red]FAILS[/]", each.detail)
            console.print(table)
    if failed:
        raise typer.Exit(1)


def _key_set(source: str) -> dict[str, Any]:
    try:
        if source.startswith(("http://", "https://")):
            text = httpx.get(source, timeout=10).raise_for_status().text
        else:
            text = Path(source).read_text()
        value = json.loads(text)
    except (OSError, ValueError, httpx.HTTPError) as error:
        raise MalformedRequest(f"The key set {source} cannot be read: {error}.") from error
    if not isinstance(value, dict) or not isinstance(value.get("keys"), list):
        raise MalformedRequest(f"{source} is not a JWKS.")
    return value


def _load_encoder(model: str | None, psm: Path | None) -> UnitEncoder:
    import torch

    from service.api.runtime import bundled
    from service.psm.calibration import Calibration
    from service.smoothing.encoder import UnitEncoder
    from service.vision import load

    if model is not None and psm is None:
        raise MalformedRequest("--model needs --psm, the folder of its calibration.")
    adapter = load(model or str(bundled("model")), device="cpu", dtype=torch.float32)
    return UnitEncoder(adapter, Calibration.load(psm or bundled("psm")))


@demo_app.command("train")
def demo_train(
    output: Annotated[Path, typer.Option(help="Folder that gets `model` and `psm`.")] = Path("runs/demo"),
    work: Annotated[
        Path, typer.Option(help="Folder for checkpoints and logs; a run goes on where it stopped.")
    ] = Path("runs/demo/work"),
    seed: Annotated[int, typer.Option(help="Seed of data and initial weights.")] = 1,
) -> None:
    """Train the demo model from scratch (needs the extra `dev`)."""
    from service.demo.train import run

    run(output, work, seed, console)


@demo_app.command("evaluate")
def demo_evaluate(
    model: Annotated[
        Path | None, typer.Option(help="Folder of the model; left out: the bundled one.")
    ] = None,
    n: Annotated[int, typer.Option(min=100, help="Held-out scenes per kind of question.")] = 1000,
    seed: Annotated[int, typer.Option(help="Seed of scenes and phrasings.")] = 7,
    sigma: Annotated[
        float, typer.Option(min=0, help="Smooth with this noise; 0: the undefended model.")
    ] = 0.0,
    n_select: Annotated[int, typer.Option(min=1, help="Noise samples that choose the served feature.")] = 64,
    every_phrasing: Annotated[
        bool, typer.Option(help="Ask in random phrasings instead of the first of each kind.")
    ] = False,
    json_file: Json = None,
) -> None:
    """Exact-match accuracy of the demo model on held-out digits, undefended or smoothed (needs `dev`)."""
    from service.api.runtime import bundled
    from service.demo.evaluate import Answerer, run, smoothed_tokens

    encode = None
    if sigma:
        psm = bundled("psm") if model is None else model.parent / "psm"
        encode = smoothed_tokens(_load_encoder(str(model or bundled("model")), psm), sigma, n_select, seed)
    answerer = Answerer(model or bundled("model"))
    figures = run(answerer, n, seed, encode=encode, every_phrasing=every_phrasing)
    figures |= {"sigma": sigma, "n_select": n_select}
    how = f"sigma {sigma:g}, {n_select} samples" if sigma else "undefended"
    table = Table("question", "asked", "right", title=f"Exact match on held-out digits, {how}, seed {seed}")
    for name, accuracy in figures["accuracy"].items():
        table.add_row(name, str(figures["asked"][name]), f"{accuracy:.1%}")
    console.print(table)
    console.print(
        f"Cosine of centred features: scene and twin with another digit {figures['twin_cosine']:.3f}, "
        f"unrelated scenes {figures['chance_cosine_mean']:.3f} "
        f"(95th percentile {figures['chance_cosine_p95']:.3f})"
    )
    for name, wrong in figures["errors"].items():
        errors.print(f"{name}: {'; '.join(wrong)}", style="dim")
    _write(json_file, figures)


@demo_app.command("samples")
def demo_samples(
    output: Annotated[Path, typer.Option(help="Folder to write.")] = Path("runs/demo/samples"),
) -> None:
    """Write the sample pictures that ship with the demo (needs the extra `dev`)."""
    from service.demo.pictures import write_samples

    for name, facts in write_samples(output).items():
        console.print(f"{output / name}: {facts}")


@psm_app.command("calibrate")
def psm_calibrate(
    model: Model,
    images: Annotated[Path, typer.Option(exists=True, file_okay=False, help="Folder of ordinary pictures.")],
    output: Annotated[Path, typer.Option(help="Folder to write; SMOOTHGATE_PSM names it to the service.")],
    twins: Annotated[
        Path | None,
        typer.Option(
            exists=True, file_okay=False, help="The same pictures, by the same names, with another answer."
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
) -> None:
    """Measure centre, scale and chance cosine of a model's features; a few hundred pictures will do."""
    import torch

    from service.psm.calibration import calibrate
    from service.psm.pictures import clean_tokens, list_pictures, read_pictures
    from service.vision import load

    with _failures():
        adapter = load(model, device=device, dtype=torch.float32)
        paths = list_pictures(images)
        if twins is not None:
            paths = [path for path in paths if (twins / path.relative_to(images)).is_file()]
        unreadable: list[Path] = []
        features = clean_tokens(adapter, read_pictures(paths, unreadable))
        others = None
        if twins is not None:
            other_paths = [twins / path.relative_to(images) for path in paths]
            others = clean_tokens(adapter, read_pictures(other_paths, unreadable))
        result = calibrate(features, others, adapter.digest)
        result.save(output)
    for path in unreadable:
        errors.print(f"skipped, cannot be read: {path}", style="yellow")
    table = Table(title=f"Calibration of {model}", show_header=False)
    for name, value in dataclasses.asdict(result.figures).items():
        table.add_row(name, f"{value:.4f}" if isinstance(value, float) else str(value))
    console.print(table)


@bench_app.command("certify")
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
    _write(json_file, {"repeats": repeats, "seed": seed, "rows": rows})
    if plot is not None:
        from service.certify.plot import plot_bench

        plot_bench(rows, plot)


@bench_app.command("resize")
def bench_resize(
    model: Annotated[str | None, typer.Option(help="Checkpoint; left out: the bundled demo model.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the pictures.")] = 0,
    json_file: Json = None,
) -> None:
    """How far the float resize, which certificates need, is from the checkpoint's own 8-bit processor."""
    import torch

    from service.api.runtime import bundled
    from service.vision import bench, load

    with _failures():
        adapter = load(model or str(bundled("model")), device="cpu", dtype=torch.float32)
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
    _write(json_file, {"seed": seed, "rows": rows})


def _settings() -> Settings:
    try:
        return Settings()
    except ValidationError as error:
        for finding in error.errors():
            where = ".".join(str(part) for part in finding["loc"])
            errors.print(f"Setting {where or '(several)'}: {finding['msg']}", style="red")
        raise typer.Exit(2) from None


class _failures:  # noqa: N801
    """Known failures end the command with their message, not with a traceback."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, SmoothgateError):
            errors.print(error.message, style="red")
            raise typer.Exit(1) from None


def _write(file: Path | None, figures: dict[str, Any]) -> None:
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(figures, indent=2) + "\n")

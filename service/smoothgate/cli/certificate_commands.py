"""`smoothgate verify` and `smoothgate keys`."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache, partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.table import Table

from smoothgate.bundled import checkpoint_of
from smoothgate.cli.common import Json, OtherModel, console, errors, failures, load_encoder, write
from smoothgate.errors import MalformedRequest
from smoothgate.extras import require
from smoothgate.progress import progress

if TYPE_CHECKING:
    from smoothgate.psm.unit_encoder import UnitEncoder
    from smoothgate.verification import Check

keys = typer.Typer(no_args_is_help=True, help="The key that signs certificates, and the secret of the noise.")


@keys.command("new")
def keys_new(
    output: Annotated[Path, typer.Option(help="File for the private key. It must not exist yet.")],
) -> None:
    """Make an Ed25519 key to sign certificates with (SMOOTHGATE_SIGNING_KEY_FILE)."""
    from smoothgate.certify.signing import SigningKey

    key = SigningKey.generate()
    _write_secret(output, key.pem())
    console.print(f"Wrote {output}; its key id is {key.kid}")


@keys.command("noise-secret")
def noise_secret(
    output: Annotated[Path, typer.Option(help="File for the secret. It must not exist yet.")],
) -> None:
    """Make a secret that the noise of every picture follows from (SMOOTHGATE_NOISE_SECRET_FILE)."""
    import secrets

    _write_secret(output, secrets.token_hex(32) + "\n")
    console.print(f"Wrote {output}")


def _write_secret(output: Path, text: str) -> None:
    try:
        descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        errors.print(f"{output}: {error.strerror}", style="red")
        raise typer.Exit(1) from None
    with os.fdopen(descriptor, "w") as file:
        file.write(text)


def verify(
    certificate: Annotated[
        Path,
        typer.Argument(exists=True, dir_okay=False, help="A JWS, a certificate, or a whole answer as JSON."),
    ],
    key_source: Annotated[
        str, typer.Option("--keys", help="Key set: a file, or the URL of /.well-known/jwks.json.")
    ],
    pin: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KID", help="Take this key of the set alone. Repeat it for several. Left out: every key."
        ),
    ] = None,
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
    log: Annotated[
        str | None,
        typer.Option(help="Log of commitments to look into: the URL of /v1/log of the service that signed."),
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(help="A vLLM that serves the same model, to ask the votes of an answer again: its URL."),
    ] = None,
    engine_key: Annotated[
        str | None, typer.Option(envvar="SMOOTHGATE_ENGINE_API_KEY", help="Bearer key of that vLLM.")
    ] = None,
    question: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="The request of the answer: the JSON that was sent to the service.",
        ),
    ] = None,
    share: Annotated[
        float, typer.Option(min=0.001, max=1, help="Share of the counted votes that --engine asks again.")
    ] = 1.0,
    signature_only: Annotated[bool, typer.Option(help="Do not load the model or replay the noise.")] = False,
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"],
        typer.Option(help="Arithmetic of the replay. It says how exactly the numbers must agree."),
    ] = "float32",
    max_samples: Annotated[
        int, typer.Option(min=2, help="Most noise samples that are drawn for one certificate.")
    ] = 131072,
) -> None:
    """Check the signature and the shown fields of certificates, and whether fields contradict each other.

    With --image, also replay the noise, make the whole certificate again, and compare every field. With
    --log, also check that the log holds the commitment to request and seed, and after it the certificate.
    With --engine and --question, also ask the votes of a certified answer again. What nothing here can check,
    and what the certificate does not cover, has a row of its own.
    """
    from smoothgate.log_verification import check_log
    from smoothgate.verification import answered, check, read

    pictures = image or []
    with failures():
        given = certificate.read_text()
        found = read(given)
        of_answer = any(plain is not None and plain.get("kind") == "answer" for _, plain in found)
        if len(pictures) > len(found) and not of_answer:
            raise MalformedRequest(f"{len(pictures)} pictures for {len(found)} certificates.")
        if pictures and not signature_only and not of_answer:
            require("serve", "Drawing the noise again")
        if engine is not None and (not of_answer or question is None or not pictures or signature_only):
            raise MalformedRequest(
                "--engine needs a certified answer, its pictures (--image) and --question."
            )
        key_set = _key_set(key_source, pin or [])
        # By the limit on canvas pixels. Most answers name one or none.
        encoder = None if signature_only else cache(partial(load_encoder, model, psm, "cpu", dtype=dtype))
        failed = False
        for number, (jws, plain) in enumerate(found):
            data = pictures[number].read_bytes() if number < len(pictures) else None
            every = [one.read_bytes() for one in pictures] if of_answer else []
            table = Table("check", "", "", title=f"Certificate {number + 1} of {len(found)}")
            checks = check(
                jws,
                plain,
                key_set,
                data,
                encoder,
                images=every,
                texts=answered(given),
                max_samples=max_samples,
                asked_again=engine is not None,
                watch=_watched,
            )
            if engine is not None and question is not None and encoder is not None:
                checks = chain(
                    checks,
                    _votes_again(
                        jws, key_set, every, question, encoder, engine, engine_key, model, share, max_samples
                    ),
                )
            if log is not None:
                checks = chain(checks, check_log(jws, key_set, partial(_log_answer, log)))
            for each in checks:
                failed |= not each.passed
                table.add_row(each.name, _verdict(each), each.detail)
            console.print(table)
    if failed:
        raise typer.Exit(1)


def digest(
    model: OtherModel = None,
    psm: Annotated[
        Path | None, typer.Option(help="Folder of the calibration; left out: the bundled one.")
    ] = None,
    json_file: Json = None,
) -> None:
    """Print the digests that certificates of a model carry, to compare with those that one names."""
    with failures():
        encoder = load_encoder(model, psm)
        from smoothgate.gate.served_model import checkpoint_digest

        digests = {
            "digest": encoder.digest,
            "psm_digest": encoder.psm_digest,
            "language_model_digest": checkpoint_digest(checkpoint_of(model)),
        }
        for name, value in digests.items():
            console.print(f"{name:22} {value}", soft_wrap=True, highlight=False)
        write(json_file, digests)


def _verdict(check: Check) -> str:
    from smoothgate.verification import UNCHECKED

    if not check.passed:
        return "[red]FAILS[/]"
    return "-" if check.name in UNCHECKED else "[green]ok[/]"


def _watched(numbers: Iterable[int], total: int) -> Iterator[int]:
    """The same numbers, with a progress bar on a terminal."""
    with progress(console=errors, transient=True) as bar:
        yield from bar.track(numbers, total, description=f"{total} noisy copies, drawn again")


def _votes_again(
    jws: str,
    key_set: dict[str, Any],
    pictures: list[bytes],
    question: Path,
    load: Callable[[int | None], UnitEncoder],
    engine: str,
    engine_key: str | None,
    model: str | None,
    share: float,
    max_samples: int,
) -> Iterator[Check]:
    require("serve", "Asking votes again")
    from smoothgate.engine import EngineClient
    from smoothgate.vote_replay import check_votes

    try:
        request = json.loads(question.read_text())
    except ValueError as error:
        raise MalformedRequest(f"{question} is not JSON.") from error
    client = EngineClient(engine.rstrip("/").removesuffix("/v1"), api_key=engine_key)
    yield from check_votes(
        jws,
        key_set,
        pictures,
        request,
        load,
        client,
        checkpoint=checkpoint_of(model),
        share=share,
        max_samples=max_samples,
        watch=_watched,
    )


def _log_answer(url: str, path: str, query: Mapping[str, str]) -> Any:
    import httpx

    try:
        answer = httpx.get(f"{url.rstrip('/')}/{path}", params=dict(query), timeout=10)
        return None if answer.status_code == 404 else answer.raise_for_status().json()
    except (ValueError, httpx.HTTPError) as error:
        raise MalformedRequest(f"The log {url} cannot be read: {error}.") from error


def _key_set(source: str, pins: list[str]) -> dict[str, Any]:
    import httpx

    from smoothgate.certify.signing import UnknownKey, pinned

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
    try:
        return pinned(value, pins) if pins else value
    except UnknownKey as error:
        missing = ", ".join(pins)
        raise MalformedRequest(f"{source} holds no key {missing}.") from error

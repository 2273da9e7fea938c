"""What the commands about certified answers share: they run, print tables and write files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import typer
from rich.markdown import Markdown

from smoothgate.cli.common import console, write
from smoothgate.progress import progress
from smoothgate_lab.evaluation import vote_attacks, vote_report
from smoothgate_lab.evaluation.asked_scenes import AskedScenes
from smoothgate_lab.evaluation.vote_attacks import AttackTerms, VoteAttacks
from smoothgate_lab.evaluation.vote_samples import BLOCK, VoteSamples


def measure_votes(
    scenes: AskedScenes,
    output: Path,
    seed: int,
    sigmas: Sequence[float],
    wanted: tuple[int, int] | None,
    json_file: Path | None,
) -> None:
    """Draw samples, and report the certified accuracy of answers.

    Args:
        scenes: what is asked.
        output: folder of samples and tables.
        seed: of the noise.
        sigmas: to draw samples at.
        wanted: numbers of pictures and of certification samples; None: only the present samples are reported.
        json_file: gets the figures.
    """
    samples = VoteSamples(output, seed, scenes)
    if wanted is not None:
        count, n = wanted
        blocks = count * -(-n // BLOCK)
        with progress(console=console) as bar:
            tasks = {each: bar.add_task(f"sigma {each:g}", total=blocks) for each in sigmas}
            samples.run(sigmas, count, n, lambda each, more: bar.advance(tasks[each], more))
    figures = vote_report.figures(samples.blocks())
    tables = vote_report.markdown(figures)
    (output / "votes.md").write_text(tables)
    (output / "votes.svg").write_text(vote_report.plot(figures))
    console.print(Markdown(tables))
    console.print(f"Wrote {output / 'votes.md'} and {output / 'votes.svg'}")
    write(json_file, figures)


def attack_votes(
    scenes: AskedScenes,
    output: Path,
    terms: AttackTerms,
    factors: Sequence[float],
    wanted: int | None,
    json_file: Path | None,
) -> None:
    """Attack certified answers, and report what became of the votes. It exits with 1 if one is refuted.

    Args:
        scenes: what is asked.
        output: folder of samples, attacks and tables.
        terms: how pictures are attacked.
        factors: radii of the attacks, in certified radii.
        wanted: number of pictures; None: only the present attacks are reported.
        json_file: gets the figures.
    """
    samples = VoteSamples(output, terms.seed, scenes)
    attacks = VoteAttacks(samples, output, terms)
    if wanted is not None:
        with progress(console=console) as bar:
            drawing = bar.add_task("samples", total=wanted)
            samples.run([terms.sigma], wanted, BLOCK, lambda _, more: bar.advance(drawing, more))
            pictures = attacks.pictures(wanted)
            attacking = bar.add_task("attacks", total=len(pictures) * len(factors))
            attacks.run(pictures, factors, lambda: bar.advance(attacking))
    rows = vote_attacks.figures(attacks.lines())
    table = vote_attacks.markdown(rows, terms, attacks.question.name)
    (output / "attacked-votes.md").write_text(table)
    (output / "attacked-votes.svg").write_text(vote_attacks.plot(rows))
    console.print(Markdown(table))
    console.print(f"Wrote {output / 'attacked-votes.md'} and {output / 'attacked-votes.svg'}")
    write(json_file, {"terms": asdict(terms), "rows": rows})
    if any(row["refuted"] for row in rows):
        raise typer.Exit(1)

"""`smoothgate demo`: the bundled demo model."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from smoothgate.cli.common import (
    CALIBRATED,
    Json,
    Lists,
    Sigmas,
    console,
    errors,
    failures,
    load_encoder,
    measure_smoothed,
    write,
)
from smoothgate.errors import MalformedRequest
from smoothgate_lab.cli.evaluation_options import Plan, ReportOnly, Results
from smoothgate_lab.cli.vote_options import AttacksReport, Factors, Samples, SamplesReport

_SIGMAS = [0.25, 0.5, 0.75, 1.0]
_FACTORS = [0.5, 0.75, 1.0, 1.5, 2.0, 3.0]

app = typer.Typer(no_args_is_help=True, help="The bundled demo model.")


@app.command("train")
def demo_train(
    output: Annotated[Path, typer.Option(help="Folder that gets `model` and `psm`.")] = Path("runs/demo"),
    work: Annotated[
        Path, typer.Option(help="Folder for checkpoints and logs. A run resumes where it stopped.")
    ] = Path("runs/demo/work"),
    seed: Annotated[int, typer.Option(help="Seed of data and initial weights.")] = 1,
) -> None:
    """Train the demo model from scratch."""
    from smoothgate_lab.demo.demo_training import run

    run(output, work, seed, console)


@app.command("evaluate")
def demo_evaluate(
    model: Annotated[
        Path | None, typer.Option(help="Folder of the model. By default the bundled one.")
    ] = None,
    n: Annotated[int, typer.Option(min=100, help="Held-out scenes per kind of question.")] = 1000,
    seed: Annotated[int, typer.Option(help="Seed of scenes and phrasings.")] = 7,
    sigma: Annotated[
        float, typer.Option(min=0, help="Smooth with this noise. 0 is the undefended model.")
    ] = 0.0,
    n_select: Annotated[int, typer.Option(min=1, help="Noise samples that choose the served feature.")] = 64,
    psm: Annotated[bool, typer.Option(help="Use purifier and mapper, or only the noisy encoder.")] = True,
    every_phrasing: Annotated[
        bool, typer.Option(help="Ask in random phrasings instead of the first of each kind.")
    ] = False,
    json_file: Json = None,
) -> None:
    """Measure exact-match accuracy of the demo model on held-out digits, undefended or smoothed."""
    from smoothgate.bundled import DEMO
    from smoothgate.psm.unit_encoder import UnitEncoder
    from smoothgate_lab.chat_models.answerer import Answerer, smoothed_tokens
    from smoothgate_lab.chat_models.exact_match import accuracy_table
    from smoothgate_lab.demo.demo_evaluation import run

    encode = None
    if sigma:
        folder = DEMO.psm if model is None else model.parent / "psm"
        encoder = load_encoder(str(model or DEMO.model), folder)
        if not psm:
            encoder = UnitEncoder(encoder.adapter, encoder.calibration)
        encode = smoothed_tokens(encoder, sigma, n_select, seed)
    answerer = Answerer(model or DEMO.model)
    figures = run(answerer, n, seed, encode=encode, every_phrasing=every_phrasing)
    figures |= {"sigma": sigma, "n_select": n_select, "psm": psm}
    how = f"sigma {sigma:g}, {n_select} samples{'' if psm else ', no PSM'}" if sigma else "undefended"
    console.print(accuracy_table(figures, f"Exact match on held-out digits, {how}, seed {seed}"))
    console.print(
        f"Cosine of centred features: scene and twin with another digit {figures['twin_cosine']:.3f}, "
        f"unrelated scenes {figures['chance_cosine_mean']:.3f} "
        f"(95th percentile {figures['chance_cosine_p95']:.3f})"
    )
    for name, wrong in figures["errors"].items():
        errors.print(f"{name}: {'; '.join(wrong)}", style="dim")
    write(json_file, figures)


@app.command("harden")
def demo_harden(
    method: Annotated[str, typer.Argument(help="fare (unsupervised) or tecoa (supervised).")],
    output: Annotated[
        Path | None, typer.Option(help="Folder that gets `model` and `psm`. By default runs/METHOD.")
    ] = None,
    eps: Annotated[float, typer.Option(min=0, help="l_inf radius of the attacks, in 255ths.")] = 8.0,
    steps: Annotated[int, typer.Option(min=1, help="Updates of the weights.")] = 2000,
    seed: Annotated[int, typer.Option(help="Seed of pictures and attacks.")] = 1,
    tower: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="Weights of a tower that is trained already."),
    ] = None,
    psm: Annotated[
        Path | None,
        typer.Option(exists=True, file_okay=False, help="PSM for the tower. By default the bundled one."),
    ] = None,
) -> None:
    """Train an adversarially robust vision tower, to compare with smoothing."""
    from smoothgate.bundled import DEMO
    from smoothgate_lab.evaluation.hardening import Hardening
    from smoothgate_lab.training_loop import Schedule

    with failures():
        if method not in ("fare", "tecoa"):
            raise MalformedRequest(f"{method} is neither fare nor tecoa.")
        folder = output or Path("runs") / method
        schedule = Schedule(steps=steps, muon_lr=0.002, adam_lr=3e-4, decay=0.7)
        hardening = Hardening("fare" if method == "fare" else "tecoa", eps / 255, seed, psm or DEMO.psm)
        if tower is not None:
            hardening.take(tower, folder)
        else:
            hardening.run(folder, schedule)
    console.print(f"Wrote {folder}/model and {folder}/psm")


@app.command("tune")
def demo_tune(
    psm: Annotated[
        Path | None,
        typer.Option(exists=True, file_okay=False, help="Folder of the PSM. By default the bundled one."),
    ] = None,
    output: Annotated[Path, typer.Option(help="Folder that gets the tuned PSM.")] = Path("runs/demo-tuned"),
    steps: Annotated[int, typer.Option(min=1, help="Updates of the weights.")] = 3000,
    votes: Annotated[
        bool,
        typer.Option(
            help="Tune each single noisy sample on right answers, without attacks. To compare with "
            "`smoothgate psm tune --votes`, which knows no right answers."
        ),
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of pictures, noise and attacks.")] = 1,
) -> None:
    """Fine-tune purifier and mapper on answers, attacked or for votes (our extension)."""
    from smoothgate.bundled import DEMO
    from smoothgate_lab.demo.scene_stream import scene_pictures
    from smoothgate_lab.evaluation.answer_tuning import AnswerTuning
    from smoothgate_lab.training_loop import Schedule

    with failures():
        encoder = load_encoder(None, psm or DEMO.psm)
        calibration = encoder.calibration
        tuning = AnswerTuning(encoder, seed, votes=votes)
        tuning.run(output / "work", Schedule(steps=steps, muon_lr=5e-4, adam_lr=1e-4, decay=0.6))
        encoder.psm.save(output)
        sigmas = [float(sigma) for sigma in calibration.figures.scores]
        held_out = scene_pictures(seed + 11, augment=False)
        measure_smoothed(encoder.adapter, output, calibration, held_out(0, CALIBRATED), sigmas, seed)
    console.print(f"Wrote {output}; its digest is {encoder.psm.digest}")


@app.command("calibrate", cls=Lists)
def demo_calibrate(
    psm: Annotated[Path, typer.Option(exists=True, file_okay=False, help="Folder of PSM and calibration.")],
    sigma: Sigmas = _SIGMAS,
    n: Annotated[int, typer.Option(min=118, help="Scenes that chance cosines are measured on.")] = 600,
    seed: Annotated[int, typer.Option(help="Seed of scenes and noise.")] = 1,
) -> None:
    """Measure scores and chance cosines of a PSM for the demo model anew. Its centre and scale are kept."""
    from smoothgate_lab.demo.scene_stream import scene_pictures

    with failures():
        encoder = load_encoder(None, psm)
        scenes = scene_pictures(seed + 11, augment=False)(0, n)
        figures = measure_smoothed(encoder.adapter, psm, encoder.calibration, scenes, sigma, seed).figures
    table = Table("sigma", "score", "chance, mean", "chance, limit of 95th percentile", "pairs")
    for name, chance in figures.chance.items():
        table.add_row(
            name,
            f"{figures.scores[name]:.4f}",
            f"{chance.mean:.3f}",
            f"{chance.p95_limit:.3f}",
            str(chance.pairs),
        )
    console.print(table)


@app.command("answer-changes")
def demo_answer_changes(
    results: Annotated[
        Path,
        typer.Argument(exists=True, dir_okay=False, help="Lines of `smoothgate evaluate`, or gzip of them."),
    ],
    defence: Annotated[
        list[str], typer.Option(help="Name of a smoothed defence of the evaluation, one or several.")
    ],
) -> None:
    """Print how often attacks changed the answer, by the cosine of the features. None of it is certified."""
    from smoothgate_lab.evaluation.answer_changes import changes_table, read_lines

    with failures():
        lines = read_lines(results)
        print("\n\n".join(changes_table(lines, name) for name in defence))


@app.command("votes", cls=Lists)
def demo_votes(
    output: Annotated[
        Path, typer.Option(help="Folder of samples and results. A run resumes where it stopped.")
    ] = Path("runs/votes"),
    sigma: Sigmas = _SIGMAS,
    scenes: Annotated[int, typer.Option(min=1, max=500, help="Held-out scenes for each sigma.")] = 500,
    n: Samples = 2048,
    seed: Annotated[int, typer.Option(help="Seed of scenes and noise.")] = 24,
    report_only: SamplesReport = False,
    json_file: Json = None,
) -> None:
    """Measure certified accuracy of answers: how often the right answer holds within a radius."""
    from smoothgate_lab.cli.vote_runs import measure_votes
    from smoothgate_lab.evaluation.asked_scenes import demo_scenes

    with failures():
        wanted = None if report_only else (scenes, n)
        measure_votes(demo_scenes(seed), output, seed, sigma, wanted, json_file)


@app.command("attack-votes", cls=Lists)
def demo_attack_votes(
    output: Annotated[
        Path, typer.Option(help="Folder of `demo votes`: has samples, gets attacks. A run resumes.")
    ] = Path("runs/votes"),
    scenes: Annotated[
        int,
        typer.Option(min=1, max=500, help="Held-out scenes: attacked where the digit is certified."),
    ] = 64,
    sigma: Annotated[float, typer.Option(min=0.01, help="Noise level.")] = 0.5,
    factor: Factors = _FACTORS,
    steps: Annotated[int, typer.Option(min=1, help="Steps of each attack.")] = 20,
    draws: Annotated[int, typer.Option(min=1, help="Noisy copies for each step.")] = 8,
    fresh: Annotated[int, typer.Option(min=1, help="Fresh samples at each attacked picture.")] = 2048,
    seed: Annotated[int, typer.Option(help="Seed of scenes, starts and noise.")] = 24,
    report_only: AttacksReport = False,
    json_file: Json = None,
) -> None:
    """Try to refute certificates of answers by attacks inside their radius; print what gives in outside."""
    from smoothgate_lab.cli.vote_runs import attack_votes
    from smoothgate_lab.evaluation.asked_scenes import demo_scenes
    from smoothgate_lab.evaluation.vote_attacks import AttackTerms

    with failures():
        terms = AttackTerms(sigma, steps, draws, fresh, seed)
        attack_votes(demo_scenes(seed), output, terms, factor, None if report_only else scenes, json_file)


@app.command("over-refusal")
def demo_over_refusal(
    output: Annotated[
        Path, typer.Option(help="Folder of `demo votes`: has the samples, gets the table.")
    ] = Path("runs/votes"),
    seed: Annotated[int, typer.Option(help="Seed of scenes and noise.")] = 24,
    json_file: Json = None,
) -> None:
    """Print how many clean pictures end `abstained` at each radius that a policy may require."""
    from rich.markdown import Markdown

    from smoothgate_lab.evaluation import over_refusal
    from smoothgate_lab.evaluation.asked_scenes import demo_scenes
    from smoothgate_lab.evaluation.vote_samples import VoteSamples

    with failures():
        figures = over_refusal.figures(VoteSamples(output, seed, demo_scenes(seed)).blocks())
    tables = over_refusal.markdown(figures)
    (output / "over-refusal.md").write_text(tables)
    console.print(Markdown(tables))
    console.print(f"Wrote {output / 'over-refusal.md'}")
    write(json_file, figures)


@app.command("resubmit")
def demo_resubmit(
    plan: Plan,
    output: Results = Path("runs/results"),
    times: Annotated[int, typer.Option(min=1, max=1000, help="How often each picture is sent.")] = 10,
    report_only: ReportOnly = False,
    json_file: Json = None,
) -> None:
    """Send attacked pictures several times, and count what the attacker gets at least once."""
    from rich.markdown import Markdown

    from smoothgate.progress import progress
    from smoothgate.vision import hide_progress
    from smoothgate_lab.evaluation import resubmission
    from smoothgate_lab.evaluation.evaluation_plan import load_plan
    from smoothgate_lab.evaluation.resubmission import Resubmission
    from smoothgate_lab.evaluation.robustness import Evaluation

    hide_progress()
    with failures():
        evaluation = Evaluation(load_plan(plan), output)
        resubmitted = Resubmission(evaluation, times)
        if not report_only:
            with progress(console=console) as bar:
                total = sum(evaluation.plan.size(cell) for cell in resubmitted.cells)
                task = bar.add_task("", total=total)
                resubmitted.run(lambda cell, count: bar.update(task, description=cell.key, advance=count))
    rows = resubmission.figures(resubmitted.lines())
    table = resubmission.markdown(rows)
    (output / "resubmitted.md").write_text(table)
    console.print(Markdown(table))
    console.print(f"Wrote {output / 'resubmitted.md'}")
    write(json_file, {"plan": evaluation.plan.model_dump(mode="json"), "rows": rows})


@app.command("summary")
def demo_summary(
    results: Annotated[
        Path, typer.Option(exists=True, file_okay=False, help="Folder of stored lines.")
    ] = Path("docs/results"),
    plans: Annotated[
        Path, typer.Option(exists=True, file_okay=False, help="Folder of the plans that they are of.")
    ] = Path("docs/plans"),
    json_file: Json = None,
) -> None:
    """Print one table of what is bundled: clean, transferred, adaptive, resubmitted, certified."""
    from smoothgate_lab.evaluation import bundled_summary

    with failures():
        found = bundled_summary.stored(results, plans)
        print(bundled_summary.markdown(found), end="")
    write(json_file, asdict(found))


@app.command("samples")
def demo_samples(
    output: Annotated[Path, typer.Option(help="Folder to write.")] = Path("runs/demo/samples"),
) -> None:
    """Write the sample pictures that ship with the demo."""
    from smoothgate_lab.demo.sample_pictures import write_samples

    for name, facts in write_samples(output).items():
        console.print(f"{output / name}: {facts}")

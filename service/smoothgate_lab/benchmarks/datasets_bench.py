"""Whole data sets: `smoothgate certify` with a kill in the middle, and its pace. `smoothgate bench datasets`.

Pictures of held-out scenes are certified by a process that is killed and started again, on Ray with a worker
that is killed, and undisturbed. All three have one secret of the noise, so that a picture has the same seed
in every table. The undisturbed run alternates with the sampler alone.
"""

from __future__ import annotations

import hashlib
import platform
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import torch

from smoothgate.errors import Unacceptable
from smoothgate.sampling.autotune import cores
from smoothgate_lab.benchmarks import certify_pace
from smoothgate_lab.benchmarks.killed_runs import WORKERS, KilledRun
from smoothgate_lab.benchmarks.table_comparison import Comparison, compare
from smoothgate_lab.demo.demo_evaluation import labelled_scenes

Json = dict[str, Any]

#: Begins a part, of so many pictures. What it returns is called with the number that is done.
Begin = Callable[[str, int], Callable[[int], None]]

SIGMA = 0.5
ALPHA = 0.001
COSINE = 0.5
# Two workers share the cores of any machine, and not its only GPU.
_DEVICE = "cpu"
#: Fewest pictures: with fewer, a run may end before anything can be killed.
FEWEST = 40
# Unequal pictures that the figures name, of a kind.
_NAMED = 20


@dataclass(frozen=True, slots=True)
class Amount:
    """How much is measured.

    Attributes:
        pictures: in each run, at least `FEWEST`.
        n_select, n_certify: samples of a picture.
        rounds: in which the undisturbed run and the sampler alone alternate, each with its share of the
            pictures.
    """

    pictures: int = 1000
    n_select: int = 128
    n_certify: int = 256
    rounds: int = 5


#: Very little, to check that it works.
QUICK = Amount(pictures=FEWEST, n_select=8, n_certify=48, rounds=2)


def run(amount: Amount, seed: int, begin: Begin) -> Json:
    """Run the benchmark.

    Args:
        amount: how much is measured.
        seed: of the scenes, and of the secret of the noise.
        begin: called at the beginning of each part.

    Returns:
        `machine`: `device`, `cores`, `torch`; `amount`: as in `Amount`, with `seed`; `runs`: of `alone` and
        `ray`, rows that were `kept` when something was killed, `first_row_seconds` from the start of the
        command, `seconds` of all its processes, and of `ray` its `workers`; `comparisons`: rows of `tables`
        (two names), `equal`, `pictures`, numbers of those that are `missing`, `double`, `foreign`, `failed`
        or `different`, `identical`, `other_tokens`, `largest`, `tolerance` (as in `Comparison`), and
        `examples` of what is not equal, at most 20 of a kind; `pace`: as `certify_pace.measure` says.

    Raises:
        SmoothgateError: a run failed, or ended before anything could be killed. Code `too_few_pictures`.
    """
    if amount.pictures < FEWEST:
        raise Unacceptable(
            f"{amount.pictures} pictures are too few to be interrupted in the middle; {FEWEST} are enough.",
            code="too_few_pictures",
        )
    with tempfile.TemporaryDirectory(prefix="smoothgate-datasets-") as name:
        folder = Path(name)
        pictures, secret = folder / "pictures", folder / "noise-secret"
        paths = _scenes(pictures, amount.pictures, seed)
        secret.write_text(hashlib.sha256(f"smoothgate bench datasets {seed}".encode()).hexdigest())
        terms: Json = {
            "device": _DEVICE,
            "sigma": SIGMA,
            "n_select": amount.n_select,
            "n_certify": amount.n_certify,
            "alpha": ALPHA,
            "cosine_threshold": COSINE,
        }
        words = [str(pictures), "--noise-secret", str(secret)]
        for term, value in terms.items():
            option = "cosine" if term == "cosine_threshold" else term.replace("_", "-")
            words += [f"--{option}", str(value)]

        alone = KilledRun(words, folder / "alone.parquet", len(paths), begin("alone, killed", len(paths)))
        alone.alone()
        ray = KilledRun(words, folder / "ray.parquet", len(paths), begin("on Ray, worker killed", len(paths)))
        ray.on_ray()
        pace, undisturbed = certify_pace.measure(
            folder, paths, terms, secret, amount.rounds, begin("undisturbed, sampler", 2 * len(paths))
        )
        tables = {
            "alone": certify_pace.table_rows(alone.out),
            "ray": certify_pace.table_rows(ray.out),
            "undisturbed": undisturbed,
        }
    return {
        "machine": {
            "device": platform.processor() or _DEVICE,
            "cores": cores(),
            "torch": torch.__version__,
        },
        "amount": asdict(amount) | {"seed": seed},
        "runs": {"alone": _of(alone), "ray": _of(ray) | {"workers": WORKERS}},
        "comparisons": [
            {"tables": [one, other], **shown(paths, compare(paths, tables[one], tables[other]))}
            for one, other in combinations(tables, 2)
        ],
        "pace": pace,
    }


def _scenes(folder: Path, n: int, seed: int) -> list[str]:
    """Files of n held-out scenes; their paths in the order in which they are certified."""
    folder.mkdir()
    scenes, _ = labelled_scenes("held-out", n, seed)
    paths = [folder / f"{number:06}.png" for number in range(n)]
    for path, scene in zip(paths, scenes, strict=True):
        scene.picture.save(path)
    return list(map(str, paths))


def _of(run: KilledRun) -> Json:
    return {"kept": run.kept, "first_row_seconds": run.first_row_seconds, "seconds": run.seconds}


def shown(paths: Sequence[str], found: Comparison) -> Json:
    """A comparison of the tables of these pictures as figures, as `run` says."""
    lists: dict[str, list[Any]] = {
        "missing": list(found.missing),
        "double": list(found.double),
        "foreign": list(found.foreign),
        "failed": list(found.failed),
        "different": [asdict(each) for each in found.different],
    }
    return {
        "equal": found.equal,
        "pictures": len(paths),
        **{kind: len(each) for kind, each in lists.items()},
        "identical": found.identical,
        "other_tokens": found.other_tokens,
        "largest": found.largest,
        "tolerance": found.tolerance,
        "examples": {kind: each[:_NAMED] for kind, each in lists.items() if each},
    }

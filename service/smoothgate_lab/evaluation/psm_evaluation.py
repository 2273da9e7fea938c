"""The evaluation of a PSM and its parts: `smoothgate psm evaluate`.

All figures are those of the smoothed encoder as the service runs it: t from `n_select` noisy copies,
scores and bounds from `n_certify` new ones.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from rich.progress import Progress, TaskID
from torch import Tensor

from smoothgate.certify.statement import Statement, Terms
from smoothgate.errors import SmoothgateError
from smoothgate.progress import progress
from smoothgate.psm.checkpoint import PSM, Identity
from smoothgate.psm.picture_files import list_pictures, read_pictures, stacked_canvases
from smoothgate.psm.unit_encoder import UnitEncoder
from smoothgate.sampling.draw import draw, generator_noise
from smoothgate.sampling.selection import select
from smoothgate.sampling.splits import draw_splits
from smoothgate.vision import VisionAdapter
from smoothgate_lab.evaluation.threads import one_core_each
from smoothgate_lab.training_loop import seeded

T = TypeVar("T")

_BATCH = 64

#: The parts of a PSM that are used: (purifier, mapper).
PARTS = {
    "identity": (False, False),
    "purifier": (True, False),
    "mapper": (False, True),
    "both": (True, True),
}


class Subjects(Protocol):
    """The pictures to smooth.

    Attributes:
        canvases: (N, 3, H, W).
        twins: (K, 3, H, W) canvases of the first K pictures with another answer. K may be 0.
    """

    canvases: Tensor
    twins: Tensor

    def accuracy(self, tokens: Tensor) -> dict[str, float]:
        """Share of right answers by question, from visual tokens (N, T, D). Empty without questions."""
        ...


class FolderSubjects:
    """n evenly spaced pictures of a folder, without unreadable ones. There are no questions and no twins.

    If the canvas depends on the image, all pictures are cropped and resized to the size of the first.

    Raises:
        SmoothgateError: code `no_pictures`: there are none, or none can be read.
    """

    def __init__(self, adapter: VisionAdapter, folder: Path, n: int) -> None:
        paths = list_pictures(folder)
        spaced = paths[:: max(1, len(paths) // n)][:n]
        self.unreadable: list[Path] = []
        pictures = list(read_pictures(spaced, self.unreadable))
        if not pictures:
            raise SmoothgateError(f"None of the pictures in {folder} can be read.", code="no_pictures")
        self.canvases = stacked_canvases(adapter, pictures)
        self.twins = self.canvases[:0]

    def accuracy(self, tokens: Tensor) -> dict[str, float]:
        """Empty: there are no questions."""
        return {}


@dataclass(frozen=True, slots=True)
class Sampling:
    """How each picture is smoothed and certified. `seed` determines the noise."""

    sigmas: tuple[float, ...]
    eps: tuple[float, ...]
    n_select: int
    n_certify: int
    alpha: float
    seed: int


def run(encoder: UnitEncoder, parts: Sequence[str], subjects: Subjects, sampling: Sampling) -> dict[str, Any]:
    """Measure some parts of a PSM at some sigmas.

    Args:
        encoder: with the whole PSM.
        parts: keys of `PARTS`.
        subjects: the pictures.
        sampling: how each picture is smoothed and certified.

    Returns:
        `sampling`, `n`, `twins`, `psm_digest`; `undefended` (`accuracy`, `chance_mean`,
        `chance_p95`, `twin_cosine` of clean features); `rows`, one for each part and sigma: `part`,
        `sigma`, `score` (mean s, a point estimate), `score_lower` (mean of the lower bounds), `fcsb` (eps
        -> mean served bound), `fcsb_mean_bound` (eps -> mean of the paper's bound), `accuracy`,
        `chance_mean`, `chance_p95`, `twin_cosine` (of the served directions), `clean_cosine` (of the served
        direction with the clean feature), `samples_per_second`.
    """
    x = subjects.canvases
    device = encoder.adapter.device
    clean = _batched(x, lambda z: encoder.clean(z.to(device)))
    clean_twins = _batched(subjects.twins, lambda z: encoder.clean(z.to(device)))
    raw = _batched(x, lambda z: encoder.adapter.tokens(z.to(device)).float())
    rows = []
    with progress() as bar:
        todo = [(part, sigma) for part in parts for sigma in sampling.sigmas]
        task = bar.add_task("", total=len(todo) * (len(x) + len(subjects.twins)))
        for part, sigma in todo:
            bar.update(task, description=f"{part}, sigma {sigma:g}")
            row = _PartAtSigma(restricted(encoder, part), sigma, sampling)
            started = time.perf_counter()
            certified = list(_each(row.certify, x, bar, task))
            twins = list(_each(row.twin, subjects.twins, bar, task))
            seconds = time.perf_counter() - started
            samples = len(x) * (sampling.n_select + sampling.n_certify) + len(twins) * sampling.n_select
            figures = row.figures(certified, clean, twins, subjects)
            rows.append({"part": part} | figures | {"samples_per_second": samples / seconds})
    return {
        "sampling": asdict(sampling),
        "n": len(x),
        "twins": len(subjects.twins),
        "psm_digest": encoder.psm_digest,
        "undefended": {"accuracy": subjects.accuracy(raw), **_cosines(clean, clean_twins)},
        "rows": rows,
    }


def _each(function: Callable[[int, Tensor], T], pictures: Tensor, bar: Progress, task: TaskID) -> Iterator[T]:
    """The results of function(index, picture) for all pictures, in order.

    On a CPU, as many pictures run in parallel as there are threads.
    """
    threads = torch.get_num_threads() if pictures.device.type == "cpu" else 1
    with one_core_each(threads) as pool:
        for result in pool.map(function, range(len(pictures)), pictures):
            bar.advance(task)
            yield result


@dataclass(frozen=True, slots=True)
class _Certified:
    """The result of smoothing one picture."""

    t: Tensor
    statement: Statement


class _PartAtSigma:
    """One part at one sigma. The noise of a picture depends only on the seed and the picture's number."""

    def __init__(self, encoder: UnitEncoder, sigma: float, sampling: Sampling) -> None:
        self.encoder = encoder
        self.sigma = sigma
        self.sampling = sampling

    def certify(self, index: int, x: Tensor) -> _Certified:
        """Certify a canvas (3, H, W)."""
        p = self.sampling
        noise = generator_noise(seeded(p.seed, 2 * index))
        splits = draw_splits(
            self.encoder.units, self._there(x), self.sigma, noise, p.n_select, p.n_certify, batch=_BATCH
        )
        terms = Terms(sigma=self.sigma, alpha=p.alpha, eps=p.eps)
        return _Certified(splits.direction.cpu(), splits.statement(terms))

    def twin(self, index: int, x: Tensor) -> Tensor:
        """t of the twin (3, H, W) of a picture."""
        noise = generator_noise(seeded(self.sampling.seed, 2 * index + 1))
        n = self.sampling.n_select
        with torch.no_grad():
            t, _ = select(draw(self.encoder.units, self._there(x), self.sigma, noise, n, batch=_BATCH))
        return t.cpu()

    def figures(
        self, certified: list[_Certified], clean: Tensor, twins: list[Tensor], subjects: Subjects
    ) -> dict[str, Any]:
        """The figures of a row of `run`, without its speed."""
        t = torch.stack([each.t for each in certified])
        statements = [each.statement for each in certified]
        served = torch.stack([self.encoder.served_tokens(each) for each in t])

        def mean(values: Iterator[float]) -> float:
            listed = list(values)
            return sum(listed) / len(listed)

        fcsb, plain = {}, {}
        for at, eps in enumerate(self.sampling.eps):
            points = [statement.points[at] for statement in statements]
            fcsb[f"{eps:g}"] = mean(point.value for point in points)
            plain[f"{eps:g}"] = mean(point.mean for point in points)
        return {
            "sigma": self.sigma,
            "score": mean(s.score_estimate for s in statements),
            "score_lower": mean(s.score_lower for s in statements),
            "fcsb": fcsb,
            "fcsb_mean_bound": plain,
            "accuracy": subjects.accuracy(served),
            **_cosines(t, torch.stack(twins) if twins else t[:0]),
            "clean_cosine": float((t * clean).sum(1).mean()),
        }

    def _there(self, x: Tensor) -> Tensor:
        """A canvas on the encoder's device."""
        return x.to(self.encoder.adapter.device)


def restricted(encoder: UnitEncoder, part: str) -> UnitEncoder:
    """The encoder with only some parts of its PSM (a key of `PARTS`), without the scores of the whole PSM."""
    purifier, mapper = PARTS[part]
    psm = PSM(
        encoder.psm.purifier if purifier else Identity(),
        encoder.psm.mapper if mapper else Identity(),
        model_digest=encoder.psm.model_digest,
    )
    return UnitEncoder(encoder.adapter, encoder.calibration.with_smoothed({}, {}, None), psm)


def _cosines(units: Tensor, twins: Tensor) -> dict[str, float | None]:
    """Cosines of unrelated pictures (each with the next), and of the first pictures with their twins."""
    strangers = (units * units.roll(1, 0)).sum(1)
    return {
        "chance_mean": float(strangers.mean()),
        "chance_p95": float(strangers.quantile(0.95)),
        "twin_cosine": float((units[: len(twins)] * twins).sum(1).mean()) if len(twins) else None,
    }


@torch.inference_mode()
def _batched(x: Tensor, function: Any) -> Tensor:
    if not len(x):
        return x.flatten(1)
    return torch.cat([function(part).cpu() for part in torch.split(x, _BATCH)])

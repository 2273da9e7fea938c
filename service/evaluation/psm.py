"""What a PSM and its parts reach: `smoothgate psm evaluate`.

Every figure is of the smoothed encoder as the service runs it: t from `n_select` noisy copies, scores and
bounds from `n_certify` fresh ones.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from torch import Tensor

from service.certify.statement import Terms, certify
from service.errors import SmoothgateError
from service.psm.checkpoint import PSM, Identity
from service.psm.encoder import UnitEncoder
from service.psm.pictures import list_pictures, read_pictures
from service.smoothing.sampler import Selection, scores_against
from service.vision import VisionAdapter

_BATCH = 64

#: What of a PSM is used: (purifier, mapper).
PARTS = {
    "identity": (False, False),
    "purifier": (True, False),
    "mapper": (False, True),
    "both": (True, True),
}


class Subjects(Protocol):
    """The pictures that are smoothed.

    Attributes:
        canvases: (N, 3, H, W).
        twins: (K, 3, H, W) canvases of the first K pictures with another answer; K may be 0.
    """

    canvases: Tensor
    twins: Tensor

    def accuracy(self, tokens: Tensor) -> dict[str, float]:
        """Share of right answers by question, from visual tokens (N, T, D); empty where nothing is asked."""
        ...


class FolderSubjects:
    """n pictures of a folder, evenly spaced, less those that cannot be read; no task, no twins.

    Raises:
        SmoothgateError: code `no_pictures`: there is none, or none can be read.
    """

    def __init__(self, adapter: VisionAdapter, folder: Path, n: int) -> None:
        paths = list_pictures(folder)
        spaced = paths[:: max(1, len(paths) // n)][:n]
        self.unreadable: list[Path] = []
        canvases = [adapter.canvas(picture).x for picture in read_pictures(spaced, self.unreadable)]
        if not canvases:
            raise SmoothgateError(f"None of the pictures in {folder} can be read.", code="no_pictures")
        self.canvases = torch.stack(canvases)
        self.twins = self.canvases[:0]

    def accuracy(self, tokens: Tensor) -> dict[str, float]:
        """Nothing is asked."""
        return {}


@dataclass(frozen=True, slots=True)
class Sampling:
    """How each picture is smoothed and certified; the noise is drawn from `seed`."""

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
        sampling: how.

    Returns:
        `sampling`, `n`, `twins`, `psm_digest`, `flip_point`; `undefended` (`accuracy`, `chance_mean`,
        `chance_p95`, `twin_cosine` of clean features); `rows`, one for each part and sigma: `part`,
        `sigma`, `score` (mean s, a point estimate), `score_lower` (mean of the lower bounds), `fcsb` (eps
        -> mean served bound), `fcsb_mean_bound` (eps -> mean of the paper's bound), `above_flip` (eps ->
        share of pictures whose served bound exceeds the flip point), `accuracy`, `chance_mean`,
        `chance_p95`, `twin_cosine` (of the served directions), `clean_cosine` (of the served direction with
        the clean feature), `samples_per_second`.
    """
    x = subjects.canvases
    device = encoder.adapter.device
    clean = _batched(x, lambda z: encoder.clean(z.to(device)))
    clean_twins = _batched(subjects.twins, lambda z: encoder.clean(z.to(device)))
    raw = _batched(x, lambda z: encoder.adapter.tokens(z.to(device)).float())
    rows = []
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns) as progress:
        todo = [(part, sigma) for part in parts for sigma in sampling.sigmas]
        task = progress.add_task("", total=len(todo) * (len(x) + len(subjects.twins)))
        for part, sigma in todo:
            progress.update(task, description=f"{part}, sigma {sigma:g}")
            row = _Row(_restricted(encoder, part), sigma, sampling)
            for picture in x:
                row.certify(picture)
                progress.advance(task)
            twins = []
            for picture in subjects.twins:
                twins.append(row.direction(picture).t)
                progress.advance(task)
            rows.append({"part": part} | row.figures(clean, twins, subjects))
    return {
        "sampling": asdict(sampling),
        "n": len(x),
        "twins": len(subjects.twins),
        "psm_digest": encoder.psm_digest,
        "flip_point": encoder.calibration.figures.flip_point,
        "undefended": {"accuracy": subjects.accuracy(raw), **_cosines(clean, clean_twins)},
        "rows": rows,
    }


@dataclass(frozen=True, slots=True)
class _Direction:
    t: Tensor
    scores: list[float]


class _Row:
    """One part at one sigma: pictures go in, figures come out."""

    def __init__(self, encoder: UnitEncoder, sigma: float, sampling: Sampling) -> None:
        self.encoder = encoder
        self.sigma = sigma
        self.sampling = sampling
        self.gen = torch.Generator().manual_seed(sampling.seed)
        self.directions: list[Tensor] = []
        self.statements: list[Any] = []
        self.samples = 0
        self.seconds = 0.0

    def direction(self, x: Tensor) -> _Direction:
        """t of a canvas (3, H, W), and the selection scores."""
        selection = Selection(self.sampling.n_select)
        for units in self._draw(x, self.sampling.n_select):
            selection.take(units)
        return _Direction(selection.direction(), selection.scores)

    def certify(self, x: Tensor) -> None:
        """Certify a canvas (3, H, W)."""
        p = self.sampling
        chosen = self.direction(x)
        scores: list[float] = []
        for units in self._draw(x, p.n_certify):
            scores += scores_against(chosen.t, units).tolist()
        terms = Terms(sigma=self.sigma, alpha=p.alpha, eps=p.eps)
        self.directions.append(chosen.t.cpu())
        self.statements.append(certify(terms, chosen.scores, scores))

    def figures(self, clean: Tensor, twins: list[Tensor], subjects: Subjects) -> dict[str, Any]:
        """What `run` says of a row."""
        t = torch.stack(self.directions)
        served = torch.stack([self.encoder.served_tokens(each) for each in t])
        flip = self.encoder.calibration.figures.flip_point

        def mean(values: Iterator[float]) -> float:
            listed = list(values)
            return sum(listed) / len(listed)

        fcsb, plain, above = {}, {}, {}
        for at, eps in enumerate(self.sampling.eps):
            points = [statement.points[at] for statement in self.statements]
            fcsb[f"{eps:g}"] = mean(point.value for point in points)
            plain[f"{eps:g}"] = mean(point.mean for point in points)
            above[f"{eps:g}"] = None if flip is None else mean(float(point.value > flip) for point in points)
        return {
            "sigma": self.sigma,
            "score": mean(s.score_estimate for s in self.statements),
            "score_lower": mean(s.score_lower for s in self.statements),
            "fcsb": fcsb,
            "fcsb_mean_bound": plain,
            "above_flip": above,
            "accuracy": subjects.accuracy(served),
            **_cosines(t, torch.stack(twins) if twins else t[:0]),
            "clean_cosine": float((t * clean).sum(1).mean()),
            "samples_per_second": self.samples / self.seconds,
        }

    def _draw(self, x: Tensor, n: int) -> Iterator[Tensor]:
        device = self.encoder.adapter.device
        for first in range(0, n, _BATCH):
            size = min(_BATCH, n - first)
            started = time.perf_counter()
            noise = torch.randn((size, *x.shape), generator=self.gen)
            levels = torch.full((size,), self.sigma, device=device)
            with torch.inference_mode():
                units = self.encoder.units((x + self.sigma * noise).to(device), levels).cpu()
            self.seconds += time.perf_counter() - started
            self.samples += size
            yield units


def _restricted(encoder: UnitEncoder, part: str) -> UnitEncoder:
    purifier, mapper = PARTS[part]
    psm = PSM(
        encoder.psm.purifier if purifier else Identity(),
        encoder.psm.mapper if mapper else Identity(),
        model_digest=encoder.psm.model_digest,
    )
    return UnitEncoder(encoder.adapter, encoder.calibration, psm)


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

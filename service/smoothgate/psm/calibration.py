"""Centre, scale and chance cosine of a model's features (design 1.1): measured once, stored beside the
checkpoint.

Visual tokens share a large common component: without the centre, unrelated images have cosines of 0.8 and a
certificate says nothing. The certificate carries the chance cosine so that a reader can tell.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from smoothgate.errors import SmoothgateError

FILE = "calibration.safetensors"
_VERSION = 2
_FEWEST_IMAGES = 8


@dataclass(frozen=True, slots=True)
class Figures:
    """What calibration measured, beside the centre.

    Attributes:
        rho: mean l2 norm of the centred clean feature: the length at which directions are served. Where the
            centre is per channel, of one token: root mean square over the tokens of an image.
        chance_mean, chance_p95: cosine of the clean features of two unrelated images, mean and 95th
            percentile.
        twin_mean: cosine between an image and its twin with another answer, or None without twins.
        flip_point: cosine near which answers change, sqrt((1 + twin_mean) / 2), or None without twins.
        images: how many images the centre is the mean of.
        model_digest: of the vision part that was calibrated.
        scores: Gaussian robustness score s by sigma (written as `f"{sigma:g}"`), mean over pictures.
        psm_digest: of the PSM that the scores were measured with, or None without one.
    """

    rho: float
    chance_mean: float
    chance_p95: float
    twin_mean: float | None
    flip_point: float | None
    images: int
    model_digest: str
    scores: dict[str, float] = field(default_factory=dict)
    psm_digest: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """Centre `mu` float32 and the figures measured with it.

    (T, D): for each token, where all images have the same. (1, D): for each channel, where images have more
    or fewer tokens.
    """

    mu: Tensor
    figures: Figures

    @property
    def digest(self) -> str:
        """sha256 over centre and figures."""
        facts = json.dumps(asdict(self.figures), sort_keys=True).encode()
        return hashlib.sha256(facts + self.mu.contiguous().numpy().tobytes()).hexdigest()

    def length(self, tokens: int) -> float:
        """The length at which the direction of that many tokens is served."""
        return self.figures.rho * math.sqrt(tokens / len(self.mu))

    def with_scores(self, scores: dict[str, float], psm_digest: str | None) -> Calibration:
        """The same with other scores."""
        return Calibration(self.mu, replace(self.figures, scores=scores, psm_digest=psm_digest))

    def save(self, folder: Path) -> None:
        """Write `calibration.safetensors` into a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        facts = {"version": str(_VERSION), "figures": json.dumps(asdict(self.figures))}
        save_file({"mu": self.mu.contiguous()}, folder / FILE, metadata=facts)

    @classmethod
    def load(cls, folder: Path) -> Calibration:
        """Read it back.

        Raises:
            SmoothgateError: code `no_calibration`: there is none, or of another version.
        """
        path = folder / FILE
        if not path.is_file():
            raise SmoothgateError(
                f"{folder} holds no {FILE}: make one with `smoothgate psm calibrate`.", code="no_calibration"
            )
        with safe_open(path, framework="pt") as file:
            facts = file.metadata() or {}
            if facts.get("version") != str(_VERSION):
                raise SmoothgateError(
                    f"{path} has version {facts.get('version')}, "
                    f"this release reads {_VERSION}: calibrate again.",
                    code="no_calibration",
                )
            figures = json.loads(facts["figures"])
            return cls(file.get_tensor("mu"), Figures(**{f.name: figures[f.name] for f in fields(Figures)}))


@torch.no_grad()
def calibrate(
    features: Iterable[Tensor],
    twins: Iterable[Tensor] | None,
    model_digest: str,
    *,
    per_channel: bool = False,
) -> Calibration:
    """Measure a model on clean images.

    Args:
        features: visual tokens (B, T, D) of unrelated images, batch by batch.
        twins: tokens of the same images with another answer, in the same order, or None.
        model_digest: of the vision part.
        per_channel: whether the centre is that of each channel alone. T may then differ from batch to batch;
            images are compared with those of their own batch.

    Raises:
        SmoothgateError: code `too_few_images`: fewer than eight images.
    """
    if per_channel:
        others = None if twins is None else [batch.float().cpu() for batch in twins]
        return _calibrate_channels([batch.float().cpu() for batch in features], others, model_digest)
    tokens = torch.cat([batch.float().cpu() for batch in features])
    _require_enough(len(tokens))
    mu = tokens.mean(0)
    centred = (tokens - mu).flatten(1)
    unit = F.normalize(centred, dim=1)
    pairs = _pairs(unit)
    twin_mean = None
    if twins is not None:
        other = F.normalize((torch.cat([batch.float().cpu() for batch in twins]) - mu).flatten(1), dim=1)
        twin_mean = float((unit * other).sum(1).mean())
    return Calibration(
        mu,
        Figures(
            rho=float(centred.norm(dim=1).mean()),
            chance_mean=float(pairs.mean()),
            chance_p95=float(pairs.quantile(0.95)),
            twin_mean=twin_mean,
            flip_point=_flip_point(twin_mean),
            images=len(tokens),
            model_digest=model_digest,
        ),
    )


def _calibrate_channels(
    batches: Sequence[Tensor], twins: Sequence[Tensor] | None, model_digest: str
) -> Calibration:
    images = sum(len(batch) for batch in batches)
    _require_enough(images)
    mu = torch.cat([batch.mean(1) for batch in batches]).mean(0, keepdim=True)
    centred = [(batch - mu).flatten(1) for batch in batches]
    squares = torch.cat(
        [(each.square().sum(1) / len(batch[0])) for each, batch in zip(centred, batches, strict=True)]
    )
    units = [F.normalize(each, dim=1) for each in centred]
    pairs = torch.cat([_pairs(each) for each in units if len(each) > 1])
    twin_mean = None
    if twins is not None:
        others = [F.normalize((batch - mu).flatten(1), dim=1) for batch in twins]
        cosines = [(unit * other).sum(1) for unit, other in zip(units, others, strict=True)]
        twin_mean = float(torch.cat(cosines).mean())
    return Calibration(
        mu,
        Figures(
            rho=float(squares.sqrt().mean()),
            chance_mean=float(pairs.mean()),
            chance_p95=float(pairs.quantile(0.95)),
            twin_mean=twin_mean,
            flip_point=_flip_point(twin_mean),
            images=images,
            model_digest=model_digest,
        ),
    )


def _flip_point(twin_mean: float | None) -> float | None:
    return None if twin_mean is None else ((1 + twin_mean) / 2) ** 0.5


def _require_enough(images: int) -> None:
    if images < _FEWEST_IMAGES:
        raise SmoothgateError(
            f"Calibration takes at least {_FEWEST_IMAGES} images, not {images}.", code="too_few_images"
        )


def _pairs(unit: Tensor) -> Tensor:
    """Cosines of every image with the next few: enough for a percentile without an n x n table."""
    return torch.cat([(unit * unit.roll(shift, 0)).sum(1) for shift in range(1, min(6, len(unit) // 2 + 1))])

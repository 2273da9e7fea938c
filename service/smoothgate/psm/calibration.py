"""Centre, scale and chance cosine of a model's features (design 1.1), measured once per model.

Visual tokens share a large common component. Without the centre, unrelated images have cosines of 0.8, and a
certificate says nothing. The certificate states the chance cosine of smoothed features, so that a reader can
compare. It depends on sigma and on the PSM.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from smoothgate.errors import SmoothgateError

FILE = "calibration.safetensors"
_VERSION = 3
# Files without chance cosines by sigma. They are read, so that certificates that were made with them can be
# verified. All that is certified with them is vacuous.
_UNCALIBRATED_VERSION = 2
_FEWEST_IMAGES = 8


@dataclass(frozen=True, slots=True)
class ChanceFigures:
    """Cosines of the served directions of unrelated images at one sigma, through the PSM.

    Attributes:
        mean: over pairs.
        p95_limit: upper confidence limit (95 %) of the 95th percentile over pairs.
        pairs: number of independent pairs.
    """

    mean: float
    p95_limit: float
    pairs: int


@dataclass(frozen=True, slots=True)
class Figures:
    """What calibration measures in addition to the centre.

    Attributes:
        rho: mean l2 norm of the centred clean feature, which is the length of served directions. If the
        centre
            is per channel, it is the length of one token: the root mean square over the tokens of an image.
        chance_mean: cosine of the clean features of two unrelated images, mean.
        chance_p95: the same, 95th percentile.
        twin_mean: cosine of the clean features of an image and its twin with another answer, or None without
            twins.
        images: number of images that were measured.
        model_digest: of the vision part that was calibrated.
        scores: Gaussian robustness score s by sigma (written as `f"{sigma:g}"`), mean over pictures.
        psm_digest: of the PSM that scores and chance were measured with, or None without one.
        chance: cosines of unrelated images after smoothing, by sigma. Other sigmas are not calibrated.
        canary_scores: the score s of the canary's picture alone, by sigma as in `scores`. Empty if it was not
            measured.
    """

    rho: float
    chance_mean: float
    chance_p95: float
    twin_mean: float | None
    images: int
    model_digest: str
    scores: dict[str, float] = field(default_factory=dict)
    psm_digest: str | None = None
    chance: dict[str, ChanceFigures] = field(default_factory=dict)
    canary_scores: dict[str, float] = field(default_factory=dict)

    @property
    def recorded(self) -> dict[str, Any]:
        """The figures as the digest covers them: without the canary's, on which no certificate rests. Without
        chance by sigma they are those of version 2.
        """
        facts = asdict(self)
        del facts["canary_scores"]
        if not self.chance:
            del facts["chance"]
            facts["flip_point"] = self.flip_point
        return facts

    @property
    def flip_point(self) -> float | None:
        """Of version 1 of the certificate, which named it. Answers also change far above it."""
        return None if self.twin_mean is None else ((1 + self.twin_mean) / 2) ** 0.5


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """The centre and the figures that were measured with it.

    Attributes:
        mu: float32. (T, D), one value per token and channel, if all images have the same number of tokens.
            (1, D), one value per channel, if they do not.
        figures: what else was measured.
    """

    mu: Tensor
    figures: Figures

    @property
    def digest(self) -> str:
        """sha256 over centre and figures, without the canary's."""
        facts = json.dumps(self.figures.recorded, sort_keys=True).encode()
        return hashlib.sha256(facts + self.mu.contiguous().numpy().tobytes()).hexdigest()

    def length(self, tokens: int) -> float:
        """The length of the served direction of an image with this number of tokens."""
        return self.figures.rho * math.sqrt(tokens / len(self.mu))

    def chance_at(self, sigma: float) -> ChanceFigures | None:
        """The cosines of unrelated images at a sigma; None: that sigma is not calibrated."""
        return next((found for name, found in self.figures.chance.items() if float(name) == sigma), None)

    def with_smoothed(
        self,
        scores: dict[str, float],
        chance: dict[str, ChanceFigures],
        psm_digest: str | None,
        canary_scores: dict[str, float] | None = None,
    ) -> Calibration:
        """The same calibration with other figures after smoothing. None: the canary's were not measured."""
        figures = replace(
            self.figures,
            scores=scores,
            chance=chance,
            psm_digest=psm_digest,
            canary_scores=canary_scores or {},
        )
        return Calibration(self.mu, figures)

    def save(self, folder: Path) -> None:
        """Write it to `calibration.safetensors` in a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        facts = {"version": str(_VERSION), "figures": json.dumps(asdict(self.figures))}
        save_file({"mu": self.mu.contiguous()}, folder / FILE, metadata=facts)
        (folder / FILE).chmod(0o644)  # as `PSM.save` does

    @classmethod
    def load(cls, folder: Path) -> Calibration:
        """Read it from a folder.

        Raises:
            SmoothgateError: code `no_calibration`: the folder has none, or one of another version.
        """
        require_calibration(folder)
        path = folder / FILE
        with safe_open(path, framework="pt") as file:
            facts = file.metadata() or {}
            if facts.get("version") not in (str(_VERSION), str(_UNCALIBRATED_VERSION)):
                raise SmoothgateError(
                    f"{path} has version {facts.get('version')}, "
                    f"this release reads {_VERSION}: calibrate again.",
                    code="no_calibration",
                )
            figures = json.loads(facts["figures"])
            chance = {name: ChanceFigures(**found) for name, found in figures.pop("chance", {}).items()}
            figures.pop("flip_point", None)
            return cls(file.get_tensor("mu"), Figures(**figures, chance=chance))


def require_calibration(folder: Path) -> None:
    """Check that a folder holds a calibration.

    Raises:
        SmoothgateError: code `no_calibration`: there is no such folder, or none in it.
    """
    if not folder.is_dir():
        raise SmoothgateError(f"There is no folder {folder}.", code="no_calibration")
    if not (folder / FILE).is_file():
        raise SmoothgateError(
            f"{folder} holds no {FILE}: make one with `smoothgate psm calibrate`.", code="no_calibration"
        )


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
        per_channel: whether the centre has one value per channel. T may then differ from batch to batch, and
            images are compared with those of their own batch. `twins` then needs the same batches.

    Raises:
        SmoothgateError: code `too_few_images`: fewer than eight images.
    """
    batches = _comparable(features, per_channel)
    images = sum(len(batch) for batch in batches)
    if images < _FEWEST_IMAGES:
        raise SmoothgateError(
            f"Calibration takes at least {_FEWEST_IMAGES} images, not {images}.", code="too_few_images"
        )
    if per_channel:
        mu = torch.cat([batch.mean(1) for batch in batches]).mean(0, keepdim=True)
    else:
        mu = batches[0].mean(0)
    # Where the centre is that of one token, the length is that of one token too.
    lengths = [(batch - mu).flatten(1).norm(dim=1) / math.sqrt(batch.shape[1] / len(mu)) for batch in batches]
    units = [_centred_units(batch, mu) for batch in batches]
    pairs = torch.cat([_pairs(unit) for unit in units if len(unit) > 1])
    twin_mean = None
    if twins is not None:
        others = [_centred_units(batch, mu) for batch in _comparable(twins, per_channel)]
        cosines = [(unit * other).sum(1) for unit, other in zip(units, others, strict=True)]
        twin_mean = float(torch.cat(cosines).mean())
    return Calibration(
        mu,
        Figures(
            rho=float(torch.cat(lengths).mean()),
            chance_mean=float(pairs.mean()),
            chance_p95=float(pairs.quantile(0.95)),
            twin_mean=twin_mean,
            images=images,
            model_digest=model_digest,
        ),
    )


def _comparable(features: Iterable[Tensor], per_channel: bool) -> list[Tensor]:
    """Tokens (B, T, D) of images that can be compared with each other, float32 on the CPU."""
    batches = [batch.float().cpu() for batch in features]
    return batches if per_channel else [torch.cat(batches)]


def _centred_units(tokens: Tensor, mu: Tensor) -> Tensor:
    """Visual tokens (B, T, D) -> unit features (B, T * D)."""
    return F.normalize((tokens - mu).flatten(1), dim=1)


def _pairs(units: Tensor) -> Tensor:
    """Cosines of every image with the next few images. They give a percentile without an n x n table."""
    return torch.cat([(units * units.roll(k, 0)).sum(1) for k in range(1, min(6, len(units) // 2 + 1))])

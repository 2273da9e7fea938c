"""The unit of work: one noisy canvas to one unit feature (design 1.1)."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from service.errors import SmoothgateError
from service.psm.calibration import Calibration
from service.vision import VisionAdapter


class UnitEncoder:
    """`u(z) = (v - mu) / ||v - mu||` with `v = vec(h(z))`, and the way back from a direction to visual
    tokens.

    Raises:
        SmoothgateError: code `wrong_calibration`: the calibration was made for another model.
    """

    def __init__(self, adapter: VisionAdapter, calibration: Calibration) -> None:
        shape = (adapter.tokens_per_image, adapter.hidden_size)
        if tuple(calibration.mu.shape) != shape or calibration.figures.model_digest != adapter.digest:
            raise SmoothgateError(
                "The calibration was made for another model: run `smoothgate psm calibrate` on this one.",
                code="wrong_calibration",
            )
        self.adapter = adapter
        self.calibration = calibration
        self._mu = calibration.mu.to(adapter.device)

    @property
    def digest(self) -> str:
        """sha256 over everything that determines the features: vision part and calibration."""
        return hashlib.sha256(f"{self.adapter.digest} {self.calibration.digest}".encode()).hexdigest()

    @property
    def feature_size(self) -> int:
        """T * D."""
        return self._mu.numel()

    def units(self, z: Tensor) -> Tensor:
        """Noisy canvases (B, 3, H, W) -> unit features (B, T * D) float32. Differentiable in z."""
        tokens = self.adapter.tokens(z).float()
        return F.normalize((tokens - self._mu).flatten(1), dim=1)

    @torch.no_grad()
    def served_tokens(self, direction: Tensor) -> Tensor:
        """`mu + rho * t` as visual tokens (T, D) float32 on the CPU, for a unit direction t (T * D)."""
        tokens = self._mu + self.calibration.figures.rho * direction.to(self._mu).view_as(self._mu)
        return tokens.cpu()

    @torch.no_grad()
    def raw_tokens(self, x: Tensor) -> Tensor:
        """h(x) of one clean canvas (3, H, W): tokens (T, D) float32 on the CPU, not smoothed."""
        return self.adapter.tokens(x[None].to(self.adapter.device))[0].float().cpu()

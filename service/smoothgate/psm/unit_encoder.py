"""The map from a noisy canvas to a unit feature, which sampling repeats (design 1.1)."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from smoothgate.errors import SmoothgateError
from smoothgate.psm.calibration import Calibration
from smoothgate.psm.checkpoint import PSM
from smoothgate.vision import DecodedImage, Layout, VisionAdapter


class UnitEncoder:
    """`u(z) = (v - mu) / ||v - mu||` with `v = vec(M(h(P(z))))`, and the map from a direction to visual
    tokens.

    Args:
        adapter: h. Its weights are never changed.
        calibration: mu and rho of h.
        psm: P and M; None: both are the identity.

    Raises:
        SmoothgateError: code `wrong_calibration` or `wrong_psm`: it was made for another model.
    """

    def __init__(self, adapter: VisionAdapter, calibration: Calibration, psm: PSM | None = None) -> None:
        shape = (adapter.tokens_per_image or 1, adapter.hidden_size)
        if tuple(calibration.mu.shape) != shape or calibration.figures.model_digest != adapter.digest:
            raise SmoothgateError(
                "The calibration was made for another model: run `smoothgate psm calibrate` on this one.",
                code="wrong_calibration",
            )
        self.psm = psm or PSM()
        if self.psm.model_digest not in (None, adapter.digest):
            raise SmoothgateError(
                "The PSM was trained for another model: run `smoothgate psm train` on this one.",
                code="wrong_psm",
            )
        self.adapter = adapter
        self.calibration = calibration
        self.psm_digest = None if self.psm.is_identity else self.psm.digest
        self.psm.to(device=adapter.device)
        self._mu = calibration.mu.to(adapter.device)
        self._mu_on_cpu = calibration.mu.cpu()

    @classmethod
    def load(cls, adapter: VisionAdapter, folder: Path) -> UnitEncoder:
        """The encoder with the calibration in a folder, and with the PSM in that folder if there is one.

        Raises:
            SmoothgateError: code `no_calibration`, `unusable_psm`, `wrong_calibration` or `wrong_psm`.
        """
        encoder = cls(adapter, Calibration.load(folder), PSM.load(folder))
        if encoder.calibration.figures.psm_digest not in (None, encoder.psm_digest):
            raise SmoothgateError(
                f"The calibration in {folder} was made with another PSM than the one there: run "
                "`smoothgate psm calibrate` again.",
                code="wrong_calibration",
            )
        return encoder

    @property
    def digest(self) -> str:
        """sha256 over all that determines the features: vision part, calibration and PSM."""
        parts = [self.adapter.digest, self.calibration.digest]
        if self.psm_digest is not None:
            parts.append(self.psm_digest)
        return hashlib.sha256(" ".join(parts).encode()).hexdigest()

    def units(self, z: Tensor, sigma: Tensor, layout: Layout = ()) -> Tensor:
        """Noisy canvases (B, 3, H, W) and the sigma (B,) of their noise -> unit features (B, T * D) float32.

        Differentiable in z. Serving, calibration and replay all compute it in the arithmetic of the adapter:
        on CUDA, P and M run in its 16-bit type too where it has one.
        """
        device, dtype = self.adapter.device.type, self.adapter.dtype
        short = device == "cuda" and dtype in (torch.bfloat16, torch.float16)
        with torch.autocast(device, dtype if short else None, enabled=short):
            tokens = self.adapter.tokens(self.purified(z, sigma), layout).float()
            mapped = self.psm.mapper(tokens, sigma)
        return self.unit(mapped.float())

    def purified(self, z: Tensor, sigma: Tensor) -> Tensor:
        """P of noisy canvases (B, 3, H, W) with the sigma (B,) of their noise. P sees one tile at a time."""
        height = self.adapter.tile_height
        if height is None or z.shape[2] == height:
            return self.psm.purifier(z, sigma)  # type: ignore[no-any-return]
        batch, colours, _, width = z.shape
        tiles = z.reshape(batch, colours, -1, height, width).transpose(1, 2)
        pure: Tensor = self.psm.purifier(tiles.flatten(0, 1), sigma.repeat_interleave(tiles.shape[1]))
        return pure.reshape(tiles.shape).transpose(1, 2).flatten(2, 3)

    def clean(self, x: Tensor) -> Tensor:
        """Unit features (B, T * D) float32 of canvases (B, 3, H, W) by h alone, without P and M."""
        return self.unit(self.adapter.tokens(x).float())

    def unit(self, tokens: Tensor) -> Tensor:
        """Visual tokens (B, T, D) -> unit features (B, T * D)."""
        return F.normalize((tokens - self._mu).flatten(1), dim=1)

    def served(self, directions: Tensor) -> Tensor:
        """`mu + rho * t` as visual tokens (B, T, D) float32, for unit directions t (B, T * D).
        Differentiable.
        """
        mu = self._mu_on_cpu if directions.device.type == "cpu" else self._mu
        tokens = directions.to(mu).view(len(directions), -1, mu.shape[1])
        served: Tensor = mu + self.calibration.length(tokens.shape[1]) * tokens
        return served

    @torch.no_grad()
    def served_tokens(self, direction: Tensor) -> Tensor:
        """The visual tokens (T, D) on the CPU that are served for one direction (T * D). Asks no device."""
        return self.served(direction.cpu()[None])[0]

    @torch.no_grad()
    def raw_tokens(self, image: DecodedImage) -> Tensor:
        """h of an image with the model's own preprocessing: tokens (T, D) float32 on the CPU, not
        smoothed.
        """
        layout = self.adapter.canvas(image).layout
        x = self.adapter.canvas_native(image)[None].to(self.adapter.device)
        return self.adapter.tokens(x, layout)[0].float().cpu()

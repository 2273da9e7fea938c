"""A purifier from a published diffusion model: one step of denoising at the timestep whose noise is sigma.

`x + d` with d ~ N(0, sigma^2 I) is, up to scale, a state of a diffusion process (Carlini et al. 2022,
"(Certified!!) Adversarial Robustness for Free!"). In the value range [-1, 1] of these models its noise
has the standard deviation 2 sigma, so the timestep solves sqrt((1 - abar) / abar) = 2 sigma. This
timestep is a fraction, and the network gets it as one. The noise is exactly the one that was added.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from diffusers import DDPMScheduler, UNet2DModel
from torch import Tensor, nn

from smoothgate.errors import SmoothgateError
from smoothgate.psm.purifier import pad

Prediction = Literal["epsilon", "v_prediction", "sample"]


@dataclass(frozen=True, slots=True)
class DiffusionConfig:
    """The network and what it predicts.

    Attributes:
        unet: configuration of the `UNet2DModel`.
        prediction: what its first three output channels are: the noise, the velocity or the clean canvas.
        timesteps: number of timesteps of the noise schedule.
    """

    unet: dict[str, Any]
    prediction: Prediction
    timesteps: int


class DiffusionPurifier(nn.Module):
    """One-step denoising by a `diffusers` U-Net. Canvases are padded by reflection to a size that it takes.

    Args:
        config: the network and what it predicts.
        unet: the network with its weights. By default it has new weights.
        alphas_cumprod: (timesteps,) abar of the noise schedule. By default it is zero, to be loaded.
    """

    alphas_cumprod: Tensor

    def __init__(
        self, config: DiffusionConfig, unet: UNet2DModel | None = None, alphas_cumprod: Tensor | None = None
    ) -> None:
        super().__init__()
        self.config = config
        self.unet = unet if unet is not None else UNet2DModel.from_config(config.unet)
        self.unet.to(memory_format=torch.channels_last)
        abar = alphas_cumprod if alphas_cumprod is not None else torch.zeros(config.timesteps)
        self.register_buffer("alphas_cumprod", abar.float())
        self._multiple = 2 ** (len(config.unet["block_out_channels"]) - 1)

    @classmethod
    def from_pretrained(cls, source: str) -> DiffusionPurifier:
        """Load a DDPM checkpoint in diffusers' format.

        Args:
            source: a folder or a Hugging Face id, of a pipeline (`unet/`, `scheduler/`) or of only the model.

        Raises:
            SmoothgateError: code `unsupported_purifier`: it is no such checkpoint.
        """
        try:
            unet = _load_component(UNet2DModel, source, "unet")
            scheduler = _load_component(DDPMScheduler, source, "scheduler")
        except (OSError, ValueError) as error:
            raise SmoothgateError(
                f"{source} cannot be used as a purifier: {error}", code="unsupported_purifier"
            ) from error
        if unet.config.in_channels != 3 or unet.config.out_channels not in (3, 6):
            raise SmoothgateError(
                f"{source} cannot be used as a purifier: it has {unet.config.in_channels} channels, not 3.",
                code="unsupported_purifier",
            )
        settings = {key: value for key, value in unet.config.items() if not key.startswith("_")}
        abar = scheduler.alphas_cumprod
        return cls(DiffusionConfig(settings, scheduler.config.prediction_type, len(abar)), unet, abar)

    def timestep(self, sigma: Tensor) -> Tensor:
        """sigma (B,) -> fractional timesteps (B,), between the first and the last of the schedule."""
        known = ((1 - self.alphas_cumprod) / self.alphas_cumprod).sqrt().log()
        wanted = (2 * sigma).clamp(min=1e-6).log().to(known)
        right = torch.searchsorted(known, wanted).clamp(1, len(known) - 1)
        low, high = known[right - 1], known[right]
        return (right - 1 + ((wanted - low) / (high - low)).clamp(0, 1)).float()

    def forward(self, z: Tensor, sigma: Tensor) -> Tensor:
        """Noisy canvases (B, 3, H, W) and their sigma (B,) -> estimated clean canvases (B, 3, H, W)."""
        height, width = z.shape[-2:]
        noisy = 2 * pad(z, self._multiple) - 1
        level = 2 * sigma.view(-1, 1, 1, 1).to(noisy)
        scale = (1 + level.square()).rsqrt()
        state = (noisy * scale).to(self.unet.dtype)
        out = cast(Tensor, self.unet(state, self.timestep(sigma)).sample)[:, :3].to(noisy)
        match self.config.prediction:
            case "epsilon":
                clean = noisy - level * out
            case "v_prediction":
                clean = scale * (noisy * scale) - level * scale * out
            case "sample":
                clean = out
        return ((clean + 1) / 2)[..., :height, :width]


def _load_component(kind: Any, source: str, subfolder: str) -> Any:
    """Load from the subfolder of a pipeline, or from the checkpoint itself if it is no pipeline."""
    try:
        return kind.from_pretrained(source, subfolder=subfolder)
    except OSError:
        return kind.from_pretrained(source)

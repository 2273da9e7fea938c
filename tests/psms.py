"""A small PSM of real networks with random weights, for the tiny checkpoints."""

import torch

from smoothgate.psm.checkpoint import PSM
from smoothgate.psm.mapper import ResidualMapper, ResidualMapperConfig
from smoothgate.psm.purifier import LightUNet, LightUNetConfig
from tests import checkpoints

_GRID = (checkpoints.IMAGE_SIZE // checkpoints.PATCH_SIZE,) * 2


def build(model_digest: str = "m", seed: int = 0) -> PSM:
    """Every weight is drawn: as they are initialised, both networks would change nothing."""
    torch.manual_seed(seed)
    purifier = LightUNet(LightUNetConfig(width=16, core_width=24, heads=2, noise_width=16))
    config = ResidualMapperConfig(checkpoints.HIDDEN_SIZE, _GRID, width=16, heads=2, noise_width=8)
    psm = PSM(purifier, ResidualMapper(config), model_digest=model_digest, training={"seed": seed})
    for parameter in psm.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return psm.eval().requires_grad_(False)

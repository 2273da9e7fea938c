"""The vision tower and projector of the photographs model, and what the tower learns of the teacher.

A transformer learns little from 50,000 photographs alone. The tower therefore learns the teacher's view of
photographs that are changed and mixed so that no two are alike (Beyer et al. 2022): its class probabilities,
and its last feature map at the same place. All is read from the centred unit feature that the service
serves, by heads that are dropped afterwards.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from transformers import CLIPVisionConfig

from smoothgate_lab.chat_models.clip_encoder import ClipEncoder, centred_unit
from smoothgate_lab.photos.photo_augmentation import cut_out, mixed, recoloured, shifted, turned
from smoothgate_lab.photos.photo_teacher import MAP_SIDE, PhotoTeacher
from smoothgate_lab.photos.photographs import CANVAS, CLASSES, Photographs

PATCH = 4


def photo_encoder(hidden: int, layers: int, width: int) -> ClipEncoder:
    """An encoder with 64 tokens and new weights.

    Args:
        hidden: width of the tower, a multiple of 32.
        layers: number of its layers.
        width: of the language model.
    """
    config = CLIPVisionConfig(
        hidden_size=hidden,
        intermediate_size=4 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 32,
        image_size=CANVAS,
        patch_size=PATCH,
        hidden_act="gelu",
    )
    return ClipEncoder(config, width)


class PhotoTowerTrainer(nn.Module):
    """Encoder, heads and the running mean mu (64, D) of the features.

    Args:
        encoder: what is trained.
        map_width: number of channels of the teacher's last feature map.
    """

    mu: Tensor

    def __init__(self, encoder: ClipEncoder, map_width: int) -> None:
        super().__init__()
        width = encoder.width
        self.encoder = encoder
        self.pooled = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width))
        self.what = nn.Linear(width, len(CLASSES))
        self.token_what = nn.Linear(width, len(CLASSES))
        self.map = nn.Linear(width, map_width)
        self.register_buffer("mu", torch.zeros(encoder.tokens, width))

    def features(self, x: Tensor) -> Tensor:
        """Canvases (N, 3, 32, 32) in [0, 1] -> centred unit features (N, 64, D).

        In training, the centre follows the mean.
        """
        return centred_unit(self.encoder(x).float(), self.mu, follow=self.training)

    def read(self, unit: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What the heads read from centred unit features (N, 64, D).

        Returns:
            Logits (N, 10), logits of each token (N, 64, 10), and a feature map (N, C, 4, 4).
        """
        read = unit * self.mu.numel() ** 0.5
        side = CANVAS // PATCH
        grid = self.map(read).mT.unflatten(2, (side, side))
        return (
            self.what(self.pooled(read.mean(1))),
            self.token_what(read),
            F.avg_pool2d(grid, side // MAP_SIDE),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Canvases (N, 3, 32, 32) in [0, 1] -> logits (N, 10)."""
        return self.read(self.features(x))[0]


def tower_loss(
    model: PhotoTowerTrainer, teacher: PhotoTeacher, photographs: Photographs, gen: torch.Generator
) -> tuple[Tensor, dict[str, float]]:
    """The losses of the heads against the teacher, and of the centre."""
    x = turned(shifted(photographs.canvases, gen), gen)
    x = mixed(cut_out(recoloured(x, gen), gen), gen)
    with torch.no_grad():
        wanted_map = teacher.feature_map(x)
        soft = F.softmax(teacher.classify(wanted_map).float(), 1)
    unit = model.features(x)
    logits, token_logits, found_map = model.read(unit)
    losses = {
        "what": F.cross_entropy(logits.float(), soft),
        "tokens": F.cross_entropy(token_logits.float().mT, soft[:, :, None].expand(-1, -1, unit.shape[1])),
        "map": 1 - F.cosine_similarity(found_map.float(), wanted_map.float()).mean(),
        "shared": unit.flatten(1).mean(0).square().sum(),
    }
    total = losses["what"] + 0.3 * losses["tokens"] + losses["map"] + 0.3 * losses["shared"]
    figures = {name: float(value.detach()) for name, value in losses.items()}
    figures["agreement"] = float((logits.argmax(1) == soft.argmax(1)).float().mean())
    return total, figures

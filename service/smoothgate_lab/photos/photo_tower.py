"""The vision tower and projector of the photographs model, and what the tower learns of the teacher.

A transformer learns little from 50,000 photographs alone. The tower therefore learns the teacher's view of
photographs that are changed and mixed so that no two are alike (Beyer et al. 2022): its class probabilities,
and its two last feature maps at the place of each token. All is read from the centred unit feature that the
service serves, by heads that are dropped afterwards.

In the first part of the training the tower sees a random half of the patches of each photograph, which
takes half of the time (as Li et al. 2023 do for CLIP). In the last part photographs are neither turned nor
mixed, so that it ends with pictures as sharp as those that it will see.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from transformers import CLIPVisionConfig

from smoothgate_lab.chat_models.clip_encoder import ClipEncoder, centred_unit
from smoothgate_lab.photos.photo_augmentation import cut_out, mixed, shifted, turned
from smoothgate_lab.photos.photo_sets import CLASSES
from smoothgate_lab.photos.photo_teacher import COARSE_SIDE, FINE_SIDE, PhotoTeacher
from smoothgate_lab.photos.photographs import CANVAS, Photographs

PATCH = CANVAS // FINE_SIDE


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
        # The fastest to train in bfloat16 at 65 tokens on a CPU.
        attn_implementation="eager",
    )
    return ClipEncoder(config, width)


class PhotoTowerTrainer(nn.Module):
    """Encoder, heads and the running mean mu (64, D) of the features.

    Args:
        encoder: what is trained.
        map_width: number of channels of the teacher's feature maps.
    """

    mu: Tensor

    def __init__(self, encoder: ClipEncoder, map_width: int) -> None:
        super().__init__()
        width = encoder.width
        self.encoder = encoder
        self.pooled = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width))
        self.what = nn.Linear(width, CLASSES)
        self.token_what = nn.Linear(width, CLASSES)
        self.fine = nn.Linear(width, map_width)
        self.coarse = nn.Linear(width, map_width)
        self.register_buffer("mu", torch.zeros(encoder.tokens, width))

    def features(self, x: Tensor, kept: Tensor | None = None) -> Tensor:
        """Canvases (N, 3, 32, 32) in [0, 1] -> centred unit features (N, 64, D), or (N, K, D) of K patches.

        In training, the centre follows the mean.
        """
        return centred_unit(self.encoder(x, kept).float(), self.mu, follow=self.training, kept=kept)

    def classify(self, read: Tensor) -> Tensor:
        """Features of about unit variance (N, K, D) -> logits (N, 10)."""
        logits: Tensor = self.what(self.pooled(read.mean(1)))
        return logits

    def forward(self, x: Tensor) -> Tensor:
        """Canvases (N, 3, 32, 32) in [0, 1] -> logits (N, 10)."""
        return self.classify(unit_variance(self.features(x)))


def unit_variance(unit: Tensor) -> Tensor:
    """Centred unit features (N, K, D), scaled to what heads read."""
    scaled: Tensor = unit * unit[0].numel() ** 0.5
    return scaled


def tower_loss(
    model: PhotoTowerTrainer,
    teacher: PhotoTeacher,
    photographs: Photographs,
    gen: torch.Generator,
    patches: int | None = None,
) -> tuple[Tensor, dict[str, float]]:
    """The losses of the heads against the teacher, and of the centre.

    Args:
        model: what is trained.
        teacher: what it learns from.
        photographs: a batch.
        gen: generator of all changes.
        patches: number of patches that the tower sees of each photograph, chosen at random. None: all, of
            photographs that are neither turned nor mixed.
    """
    x, kept = shifted(photographs.canvases, gen), None
    if patches is None:
        x = cut_out(x, gen)
    else:
        x = mixed(cut_out(turned(x, gen), gen), gen)
        kept = torch.rand(len(x), model.encoder.tokens, generator=gen).topk(patches).indices
    with torch.no_grad():
        fine, coarse = teacher.feature_maps(x)
        soft = F.softmax(teacher.classify(coarse).float(), 1)
        coarse = F.interpolate(coarse, scale_factor=FINE_SIDE // COARSE_SIDE)
    unit = model.features(x, kept)
    read = unit_variance(unit)
    logits = model.classify(read)
    losses = {
        "what": F.cross_entropy(logits.float(), soft),
        "tokens": F.cross_entropy(
            model.token_what(read).float().mT, soft[:, :, None].expand(-1, -1, unit.shape[1])
        ),
        "fine": _unlike(model.fine(read), fine, kept),
        "coarse": _unlike(model.coarse(read), coarse, kept),
        "shared": unit.flatten(1).mean(0).square().sum(),
    }
    weights = {"what": 1.0, "tokens": 0.3, "fine": 0.5, "coarse": 1.0, "shared": 0.3}
    total = torch.stack([weights[name] * value for name, value in losses.items()]).sum()
    figures = {name: float(value.detach()) for name, value in losses.items()}
    figures["agreement"] = float((logits.argmax(1) == soft.argmax(1)).float().mean())
    return total, figures


def _unlike(found: Tensor, wanted_map: Tensor, kept: Tensor | None) -> Tensor:
    """1 - cosine of what tokens (N, K, C) say and a map (N, C, 8, 8) has at their places, on average."""
    wanted = wanted_map.flatten(2).mT
    if kept is not None:
        wanted = wanted.gather(1, kept[..., None].expand(-1, -1, wanted.shape[2]))
    return 1 - F.cosine_similarity(found.float(), wanted.float(), dim=2).mean()

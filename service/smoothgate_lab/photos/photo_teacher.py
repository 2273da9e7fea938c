"""The teacher of the photographs' tower: a convolutional network that learns its pictures in a few epochs.

It is a network as in airbench (Jordan 2024, arXiv 2404.00498), with padding in its first layer so that its
feature maps have 8 x 8 and 4 x 4 places: the tower's 64 tokens lie on the first. The tower learns its class
probabilities and both maps.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from smoothgate_lab.photos.photo_augmentation import cut_out, shifted
from smoothgate_lab.photos.photo_sets import CLASSES
from smoothgate_lab.photos.photographs import Photographs

FINE_SIDE, COARSE_SIDE = 8, 4

# Side of the patches that the first layer whitens.
_PATCH = 2
_SMOOTHING = 0.1
# The logits' scale, as in airbench.
_SCALE = 1 / 9


def _group(inputs: int, outputs: int) -> nn.Sequential:
    """Two convolutions. The first halves the sides."""
    first = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    second = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
    for conv in (first, second):
        # The first filters pass their channel on.
        nn.init.dirac_(conv.weight[: conv.in_channels])
    return nn.Sequential(first, nn.MaxPool2d(2), _norm(outputs), nn.GELU(), second, _norm(outputs), nn.GELU())


def _norm(width: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(width, momentum=0.4)
    norm.weight.requires_grad_(False)
    return norm


class PhotoTeacher(nn.Module):
    """Canvases (N, 3, 32, 32) in [0, 1] -> logits of the ten classes (N, 10). 2 M parameters at width 64.

    Args:
        width: number of channels of the first group. The others have four times as many.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        patch = 3 * _PATCH**2
        self.map_width = 4 * width
        self.whiten = nn.Conv2d(3, 2 * patch, _PATCH)
        self.whiten.weight.requires_grad_(False)
        nn.init.zeros_(self.whiten.get_parameter("bias"))
        self.net = nn.Sequential(
            _group(2 * patch, width),
            _group(width, self.map_width),
            _group(self.map_width, self.map_width),
        )
        self.head = nn.Linear(self.map_width, CLASSES, bias=False)
        # Twice as fast on a CPU. The types of torch know no overload of `to` with a memory format alone.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @torch.no_grad()
    def look_at(self, photographs: Photographs) -> None:
        """Set the first layer: it whitens patches of 2 x 2 pixels of these photographs."""
        patches = F.unfold(_centred(photographs.canvases), _PATCH).transpose(1, 2).flatten(0, 1)
        values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
        filters = (vectors / (values + 5e-4).sqrt()).T.view(-1, 3, _PATCH, _PATCH)
        self.whiten.weight.copy_(torch.cat([filters, -filters]))

    def feature_maps(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Canvases (N, 3, 32, 32) -> the last maps, (N, 4 * width, 8, 8) and (N, 4 * width, 4, 4)."""
        pixels = F.pad(_centred(x), (0, 1, 0, 1), mode="replicate")
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        fine: Tensor = self.net[:2](F.gelu(self.whiten(pixels)))
        return fine, self.net[2](fine)

    def classify(self, coarse: Tensor) -> Tensor:
        """The last feature map (N, 4 * width, 4, 4) -> logits (N, 10)."""
        logits: Tensor = self.head(coarse.amax((2, 3))) * _SCALE
        return logits

    def forward(self, x: Tensor) -> Tensor:
        """Canvases (N, 3, 32, 32) in [0, 1] -> logits (N, 10)."""
        return self.classify(self.feature_maps(x)[1])


def _centred(x: Tensor) -> Tensor:
    return (x - 0.5) / 0.25


def teacher_loss(
    teacher: PhotoTeacher, photographs: Photographs, gen: torch.Generator
) -> tuple[Tensor, dict[str, float]]:
    """Cross-entropy of the teacher on photographs that are moved, mirrored and cut out of.

    A tenth of what is wanted is spread over all classes (label smoothing).
    """
    logits = teacher(cut_out(shifted(photographs.canvases, gen, most=3), gen)).float()
    accuracy = (logits.argmax(1) == photographs.labels).float().mean()
    wanted = F.cross_entropy(logits, photographs.labels, label_smoothing=_SMOOTHING)
    return wanted, {"accuracy": float(accuracy)}

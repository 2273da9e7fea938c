"""The teacher of the photographs' tower: a convolutional network, which learns CIFAR-10 in a few epochs.

It is a ResNet-9 as in the DAWNBench entries of 2018. The tower learns its class probabilities and its last
feature map.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from smoothgate_lab.photos.photo_augmentation import cut_out, shifted
from smoothgate_lab.photos.photographs import CLASSES, Photographs

MAP_SIDE = 4


def _block(inputs: int, outputs: int, *, halve: bool = False) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False)
    pool = [nn.MaxPool2d(2)] if halve else []
    return nn.Sequential(conv, *pool, nn.BatchNorm2d(outputs), nn.ReLU())


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(_block(width, width), _block(width, width))

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = x + self.branch(x)
        return result


class PhotoTeacher(nn.Module):
    """Canvases (N, 3, 32, 32) in [0, 1] -> logits of the ten classes (N, 10). 3.7 M parameters at width 48.

    Args:
        width: number of channels of the first layer.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            _block(3, width),
            _block(width, 2 * width, halve=True),
            _Residual(2 * width),
            _block(2 * width, 4 * width, halve=True),
            _block(4 * width, 8 * width, halve=True),
            _Residual(8 * width),
        )
        self.map_width = 8 * width
        self.head = nn.Linear(self.map_width, len(CLASSES))
        # Twice as fast on a CPU. The types of torch know no overload of `to` with a memory format alone.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def feature_map(self, x: Tensor) -> Tensor:
        """Canvases (N, 3, 32, 32) -> the last feature map (N, 8 * width, 4, 4)."""
        pixels = ((x - 0.5) / 0.25).contiguous(memory_format=torch.channels_last)
        features: Tensor = self.net(pixels)
        return features

    def classify(self, feature_map: Tensor) -> Tensor:
        """The last feature map (N, 8 * width, 4, 4) -> logits (N, 10)."""
        logits: Tensor = self.head(feature_map.amax((2, 3)))
        return logits

    def forward(self, x: Tensor) -> Tensor:
        """Canvases (N, 3, 32, 32) in [0, 1] -> logits (N, 10)."""
        return self.classify(self.feature_map(x))


def teacher_loss(
    teacher: PhotoTeacher, photographs: Photographs, gen: torch.Generator
) -> tuple[Tensor, dict[str, float]]:
    """Cross-entropy of the teacher on photographs that are moved, mirrored and cut out of."""
    logits = teacher(cut_out(shifted(photographs.canvases, gen), gen)).float()
    accuracy = (logits.argmax(1) == photographs.labels).float().mean()
    return F.cross_entropy(logits, photographs.labels), {"accuracy": float(accuracy)}

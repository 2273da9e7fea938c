"""The teacher of the demo, which reads ink masks, and its vision tower and projector.

The teacher is a small convolutional network that sees only the ink mask. Its soft labels carry the image
prior that a transformer does not learn from 4,000 digits alone. The tower is trained on the centred unit
feature that the service serves, with heads that are dropped afterwards. One loss pushes a scene and its
twin (same layout, other digit) apart. Without it, the certified cosine says nothing about the answer.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from transformers import CLIPVisionConfig

from smoothgate_lab.chat_models.clip_encoder import ClipEncoder, centred_unit
from smoothgate_lab.demo import scenes
from smoothgate_lab.demo.scenes import CANVAS, COLOURS, PATTERNS, Digits, Layout

PATCH = 8
TOKENS = (CANVAS // PATCH) ** 2
SMALL_CANVAS = 32
VISION_HIDDEN = 160
TEXT_HIDDEN = 160


def vision_config(canvas: int = CANVAS) -> CLIPVisionConfig:
    """The demo's CLIP tower: 36 tokens, 5 layers, 1.3 M parameters."""
    return CLIPVisionConfig(
        hidden_size=VISION_HIDDEN,
        intermediate_size=480,
        num_hidden_layers=5,
        num_attention_heads=5,
        image_size=canvas,
        patch_size=PATCH,
        hidden_act="gelu",
    )


class Teacher(nn.Module):
    """Ink mask (N, 1, 48, 48) -> digit logits (N, 10)."""

    def __init__(self) -> None:
        super().__init__()

        def block(inputs: int, outputs: int, stride: int) -> nn.Sequential:
            conv = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
            return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())

        self.net = nn.Sequential(
            block(1, 32, 2),
            block(32, 64, 2),
            block(64, 96, 1),
            block(96, 128, 2),
            block(128, 160, 1),
            nn.AdaptiveAvgPool2d(1),
        )
        self.head = nn.Linear(160, 10)

    def forward(self, mask: Tensor) -> Tensor:
        """Ink masks (N, 1, 48, 48) -> logits of the ten digits (N, 10)."""
        logits: Tensor = self.head(self.net(mask).flatten(1))
        return logits


class Heads(nn.Module):
    """The heads that read the unit feature during training. They are dropped afterwards."""

    def __init__(self) -> None:
        super().__init__()
        width = TEXT_HIDDEN
        self.pooled = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width))
        self.digit = nn.Linear(width, 10)
        self.ink = nn.Linear(width, len(COLOURS))
        self.background = nn.Linear(width, len(COLOURS))
        self.pattern = nn.Linear(width, len(PATTERNS))
        self.token_digit = nn.Linear(width, 10)


class TowerTrainer(nn.Module):
    """Encoder, heads and the running mean mu (36, 160) of the features."""

    mu: Tensor

    def __init__(self, canvas: int = CANVAS) -> None:
        super().__init__()
        self.canvas = canvas
        self.encoder = ClipEncoder(vision_config(canvas), TEXT_HIDDEN)
        self.heads = Heads()
        self.register_buffer("mu", torch.zeros((canvas // PATCH) ** 2, TEXT_HIDDEN))

    def unit(self, tokens: Tensor) -> Tensor:
        """Centred unit features (N, 36, 160). Updates the centre during training."""
        return centred_unit(tokens, self.mu, follow=self.training)

    @torch.no_grad()
    def grow(self) -> TowerTrainer:
        """A copy for the full canvas, with interpolated positions and centre."""
        grown = TowerTrainer()
        state = self.state_dict()
        for key in [key for key in state if key == "mu" or key.endswith("position_embedding.weight")]:
            known, wanted = state[key], grown.state_dict()[key]
            extra = known[: len(known) - (self.canvas // PATCH) ** 2]
            side = self.canvas // PATCH
            grid = known[len(extra) :].T.reshape(1, -1, side, side)
            larger = F.interpolate(grid, CANVAS // PATCH, mode="bicubic", align_corners=False)
            state[key] = torch.cat([extra, larger.reshape(grid.shape[1], -1).T]).view_as(wanted)
        grown.load_state_dict(state)
        return grown


@dataclass(frozen=True, slots=True)
class Batch:
    """Scenes with their ink masks, labels and layouts."""

    images: Tensor
    masks: Tensor
    labels: Tensor
    layout: Layout


def training_batch(digits: Digits, n: int, gen: torch.Generator) -> tuple[Batch, Batch]:
    """n scenes and their twins with varied handwriting. Three in four are coloured, the rest are grey."""
    layouts = scenes.join(
        scenes.sample_layouts(n - n // 4, gen), scenes.sample_layouts(n // 4, gen, grey=True)
    )
    chosen = torch.randint(len(digits.labels), (n,), generator=gen)
    other = scenes.twin_indices(digits, chosen, gen)
    noise = torch.rand(n, 1, 1, 1, generator=gen).sub(0.6).clamp(min=0) * 0.1
    pair = []
    for which in (chosen, other):
        bitmaps = scenes.augment_strokes(digits.bitmaps[which], gen)
        images, masks = scenes.draw(bitmaps, layouts)
        images = (images + noise * torch.randn(images.shape, generator=gen)).clamp(0, 1)
        pair.append(Batch(images, masks, digits.labels[which], layouts))
    return pair[0], pair[1]


def teacher_loss(teacher: Teacher, batch: Batch) -> tuple[Tensor, dict[str, float]]:
    """Cross-entropy of the teacher on ink masks."""
    logits = teacher(batch.masks)
    accuracy = (logits.argmax(1) == batch.labels).float().mean()
    return F.cross_entropy(logits, batch.labels, label_smoothing=0.05), {"accuracy": float(accuracy)}


def tower_loss(
    model: TowerTrainer, teacher: Teacher, scene: Batch, twin: Batch
) -> tuple[Tensor, dict[str, float]]:
    """The losses of the heads on the unit feature, of the twins' separation, and of the centre."""
    images, masks = torch.cat([scene.images, twin.images]), torch.cat([scene.masks, twin.masks])
    labels = torch.cat([scene.labels, twin.labels])
    with torch.no_grad():
        soft = F.softmax(teacher(masks), 1)
        target = 0.5 * soft + 0.5 * F.one_hot(labels, 10)
        if model.canvas != CANVAS:
            images, masks = (
                F.interpolate(i, (model.canvas, model.canvas), mode="bilinear", antialias=True)
                for i in (images, masks)
            )
        inked = F.avg_pool2d(masks, PATCH).flatten(1) > 0.05

    unit = model.unit(model.encoder(images))
    read = unit * model.mu.numel() ** 0.5
    pooled = model.heads.pooled(read.mean(1))
    layout = scene.layout
    digit = model.heads.digit(pooled)
    losses = {
        "digit": F.cross_entropy(digit, target),
        "ink": F.cross_entropy(model.heads.ink(pooled), layout.ink.repeat(2)),
        "back": F.cross_entropy(model.heads.background(pooled), layout.background.repeat(2)),
        "pattern": F.cross_entropy(model.heads.pattern(pooled), layout.pattern.repeat(2)),
    }
    token_logits = model.heads.token_digit(read)
    token_loss = F.cross_entropy(token_logits[inked], target[:, None].expand(-1, inked.shape[1], -1)[inked])
    flat = unit.flatten(1)
    first, second = flat.chunk(2)
    twin_cosine = (first * second).sum(1)
    separation = F.relu(twin_cosine - 0.05).mean()
    shared = flat.mean(0).square().sum()
    total = (
        losses["digit"]
        + 0.5 * (losses["ink"] + losses["back"] + losses["pattern"])
        + 0.3 * token_loss
        + 1.5 * separation
        + 0.3 * shared
    )
    figures = {k: float(v.detach()) for k, v in losses.items()}
    figures["accuracy"] = float((digit.argmax(1) == labels).float().mean())
    figures["twin"] = float(twin_cosine.detach().mean())
    return total, figures

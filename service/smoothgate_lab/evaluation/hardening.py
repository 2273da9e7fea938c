"""Adversarially trained vision towers of the demo model, to compare with smoothing.

* FARE (Schlarmann et al. 2024, "Robust CLIP", equation 3) is unsupervised. The tower learns to give an
attacked
  picture the features that the original tower gives the clean one.
* TeCoA (Mao et al. 2023) is supervised. The tower learns the right answers to attacked pictures, here through
  the frozen language model instead of a text encoder.

Projector and language model do not change, as in those papers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from smoothgate.bundled import DEMO
from smoothgate.psm.checkpoint import PSM
from smoothgate.vision import VisionAdapter, load
from smoothgate_lab.chat_models.answerer import Answerer
from smoothgate_lab.chat_models.llava_files import save
from smoothgate_lab.demo import scenes
from smoothgate_lab.demo.conversation import ONE_PICTURE, Facts
from smoothgate_lab.demo.scene_stream import calibrate_scenes, labelled_drawings
from smoothgate_lab.demo.scenes import load_digits
from smoothgate_lab.evaluation.attacks.pgd import pgd
from smoothgate_lab.training_loop import Schedule, seeded, train

Method = Literal["fare", "tecoa"]

_MEAN, _STD = 0.5, 0.5
_BATCH = 32
_PGD_STEPS = 4
# One picture in this number is clean, to keep the answers to clean pictures.
_CLEAN = 4


class Hardening:
    """One adversarial training.

    Args:
        method: `fare` or `tecoa`.
        eps: l_inf radius of the attacks, for pixels in [0, 1].
        seed: seed of pictures and attacks.
        psm: folder of the PSM for the tower.
    """

    def __init__(self, method: Method, eps: float, seed: int, psm: Path) -> None:
        self.method = method
        self.eps = eps
        self.seed = seed
        self.psm = psm
        self.answerer = Answerer(DEMO.model)
        self.original: VisionAdapter = load(str(DEMO.model), device="cpu", dtype=torch.float32)
        self.model: Any = self.answerer.model
        self.model.requires_grad_(False)
        self.model.model.vision_tower.requires_grad_(True)
        self._digits = load_digits("train")

    def run(self, folder: Path, schedule: Schedule) -> None:
        """Train, write the tower into a folder (`tower.safetensors`), and write the rest as `take` does."""
        tower = self.model.model.vision_tower
        train(self.method, tower, self.loss, schedule, folder / "work", samples=_BATCH)
        save_file(tower.state_dict(), folder / "tower.safetensors")
        self._write(folder)

    def take(self, tower: Path, folder: Path) -> None:
        """Write `model` and `psm` (the PSM and a new calibration) for a tower that `run` wrote."""
        self.model.model.vision_tower.load_state_dict(load_file(tower))
        self._write(folder)

    def _write(self, folder: Path) -> None:
        save(self.model.eval(), self.answerer.processor, folder / "model")
        adapter = load(str(folder / "model"), device="cpu", dtype=torch.float32)
        psm = PSM.load(self.psm)
        psm.model_digest = adapter.digest
        psm.save(folder / "psm")
        calibrate_scenes(adapter, self.seed).save(folder / "psm")

    def tokens(self, x: Tensor) -> Tensor:
        """Visual tokens (B, T, D) of canvases (B, 3, H, W) by the trained tower. Differentiable."""
        features = self.model.model.get_image_features(pixel_values=(x - _MEAN) / _STD).pooler_output
        return torch.stack(list(features))

    def loss(self, batch: int) -> tuple[Tensor, dict[str, float]]:
        """The loss of one batch of new scenes, of which three in four are attacked."""
        gen = seeded(self.seed, batch)
        x, facts = self._scenes(gen)
        question = ONE_PICTURE[batch % len(ONE_PICTURE)]
        wanted = [question.answer(each) for each in facts]
        with torch.no_grad():
            clean = self.original.tokens(x)
        scale = clean.square().sum((1, 2)).mean()

        def of(z: Tensor, rows: slice = slice(None)) -> Tensor:
            if self.method == "fare":
                return (self.tokens(z) - clean[rows]).square().sum((1, 2)) / scale
            return self.answerer.cross_entropy(question.phrasings[0], wanted[rows], self.tokens(z))

        attacked = slice(_BATCH // _CLEAN, None)
        with torch.enable_grad():
            found = pgd(lambda z: -of(z, attacked), x[attacked], "linf", self.eps, _PGD_STEPS, gen)
        each = of(torch.cat([x[: _BATCH // _CLEAN], found]))
        figures = {"clean": each[: _BATCH // _CLEAN], "attacked": each[attacked]}
        return each.mean(), {name: float(value.detach().mean()) for name, value in figures.items()}

    def _scenes(self, gen: torch.Generator) -> tuple[Tensor, list[Facts]]:
        layouts = scenes.sample_layouts(_BATCH, gen)
        chosen = torch.randint(len(self._digits.labels), (_BATCH,), generator=gen)
        return labelled_drawings(self._digits, chosen, layouts, gen)

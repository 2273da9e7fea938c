"""Held-out scenes for the evaluation of a defence: canvases, twins and questions about each picture."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from smoothgate.bundled import DEMO
from smoothgate.vision import DecodedImage, VisionAdapter
from smoothgate_lab.chat_models.answerer import Answerer, ask
from smoothgate_lab.demo.conversation import ONE_PICTURE
from smoothgate_lab.demo.demo_evaluation import Scene, labelled_scenes


class DigitScenes:
    """Scenes of held-out digits, the twins of some of them, and every question about one picture.

    Args:
        adapter: the bundled demo model's.
        n: number of scenes.
        twins: number of scenes, from the first, that have a twin.
        seed: seed of the scenes.
    """

    def __init__(self, adapter: VisionAdapter, n: int, twins: int, seed: int) -> None:
        scenes, others = labelled_scenes("held-out", n, seed)
        self.facts = [scene.facts for scene in scenes]
        self.twin_facts = [scene.facts for scene in others[:twins]]
        self.canvases = _canvases(adapter, scenes)
        self.twins = _canvases(adapter, others[:twins]) if twins else self.canvases[:0]
        self._answerer = Answerer(DEMO.model)

    def accuracy(self, tokens: Tensor) -> dict[str, float]:
        """Share of right greedy answers by question in its first phrasing, from visual tokens (N, T, D)."""
        return {question.name: ask(self._answerer, question, tokens, self.facts) for question in ONE_PICTURE}


def _canvases(adapter: VisionAdapter, scenes: list[Scene]) -> Tensor:
    return torch.stack([adapter.canvas(DecodedImage(np.asarray(s.picture), "PNG", "")).x for s in scenes])

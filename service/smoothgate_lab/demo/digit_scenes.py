"""Held-out scenes as the evaluation of a defence takes them: canvases, twins, and questions about each
picture.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from smoothgate.demo import bundled
from smoothgate.vision import DecodedImage, VisionAdapter
from smoothgate_lab.demo.conversation import ONE_PICTURE
from smoothgate_lab.demo.demo_evaluation import Answerer, Scene, ask, labelled_scenes


class DigitScenes:
    """n scenes of held-out digits, the twins of the first `twins` of them, and every question about one
    picture.

    Args:
        adapter: of the bundled demo model.
        n: scenes.
        twins: twins, at most n.
        seed: of the scenes.
    """

    def __init__(self, adapter: VisionAdapter, n: int, twins: int, seed: int) -> None:
        scenes, others = labelled_scenes("held-out", n, seed)
        self.facts = [scene.facts for scene in scenes]
        self.twin_facts = [scene.facts for scene in others[:twins]]
        self.canvases = _canvases(adapter, scenes)
        self.twins = _canvases(adapter, others[:twins]) if twins else self.canvases[:0]
        self._answerer = Answerer(bundled("model"))

    def accuracy(self, tokens: Tensor) -> dict[str, float]:
        """Exact match of greedy answers by question, first phrasing, from visual tokens (N, T, D)."""
        return {question.name: ask(self._answerer, question, tokens, self.facts) for question in ONE_PICTURE}


def _canvases(adapter: VisionAdapter, scenes: list[Scene]) -> Tensor:
    return torch.stack([adapter.canvas(DecodedImage(np.asarray(s.picture), "PNG", "")).x for s in scenes])

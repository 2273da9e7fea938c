"""Black-box attacks of the Adversarial Robustness Toolbox (ART), run as they come.

ART asks a function for probabilities, and knows nothing of what is behind it. Queries are counted there. When
they are used up, the attack ends.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor

from smoothgate.extras import require
from smoothgate_lab.evaluation.attacks.pgd import Norm, lengths

#: Pictures (B, 3, H, W) in [0, 1] -> probabilities of classes (B, C), with one query for each picture.
Ask = Callable[[Tensor], Tensor]

# ART draws from numpy's global generator, which is seeded here.
_ONE_AT_A_TIME = threading.Lock()
# HopSkipJump goes on for as many rounds as there are queries.
_ROUNDS = 10_000


class _OutOfQueries(Exception):
    pass


class _Asked:
    """Counts queries, and keeps the nearest picture that was answered wrong.

    Args:
        ask: answers.
        x: (3, H, W), the picture under attack.
        label: its right class.
        norm: that distances are measured in.
        queries: number of pictures that may be asked about.
    """

    def __init__(self, ask: Ask, x: Tensor, label: int, norm: Norm, queries: int) -> None:
        self._ask, self._x, self._label, self._norm = ask, x, label, norm
        self._left = queries
        self._distance = float("inf")
        self._nearest: Tensor | None = None

    def __call__(self, pictures: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Probabilities (B, C) of pictures (B, 3, H, W)."""
        asked = torch.as_tensor(pictures[: self._left], dtype=torch.float32)
        self._left -= len(asked)
        told = self._ask(asked)
        delta = asked - self._x
        distances = delta.flatten(1).abs().amax(1) if self._norm == "linf" else lengths(delta).flatten()
        for picture, distance, answer in zip(asked, distances.tolist(), told.argmax(1).tolist(), strict=True):
            if answer != self._label and distance < self._distance:
                self._nearest, self._distance = picture, distance
        if len(asked) < len(pictures):
            raise _OutOfQueries
        found: np.ndarray[Any, Any] = told.numpy()
        return found

    def within(self, eps: float) -> Tensor:
        """The nearest wrong picture if it lies within eps, else the picture under attack."""
        return self._x if self._nearest is None or self._distance > eps else self._nearest


def hop_skip_jump(
    ask: Ask, x: Tensor, labels: list[int], classes: int, norm: Norm, eps: float, queries: int, seed: int
) -> Tensor:
    """HopSkipJump (Chen et al. 2020, arXiv 1904.02144), untargeted. It sees which class is first, no more.

    It has no radius: it looks for the nearest wrong picture. What lies outside of the ball has failed.

    Args:
        ask: answers.
        x: (B, 3, H, W) in [0, 1].
        labels: B right classes.
        classes: C.
        norm: norm of the ball.
        eps: radius of the ball.
        queries: most queries for each picture.
        seed: of its directions. Its random starts are seeded by the operating system.

    Returns:
        (B, 3, H, W): for each picture, the nearest one that was answered wrong, if it lies in the ball. Else
        the picture itself.

    Raises:
        MissingExtra: the extra `redteam` is not installed.
    """
    require("redteam", "HopSkipJump")
    from art.attacks.evasion import HopSkipJump
    from art.estimators.classification import BlackBoxClassifier

    found = []
    with _ONE_AT_A_TIME:
        np.random.seed(seed % 2**32)
        for picture, label in zip(x, labels, strict=True):
            asked = _Asked(ask, picture, label, norm, queries)
            classifier = BlackBoxClassifier(asked, tuple(picture.shape), classes, clip_values=(0.0, 1.0))
            attack = HopSkipJump(
                classifier, norm=2 if norm == "l2" else np.inf, max_iter=_ROUNDS, init_eval=20, verbose=False
            )
            with suppress(_OutOfQueries):
                attack.generate(picture[None].numpy(), y=np.array([label]))
            found.append(asked.within(eps))
    return torch.stack(found)


def art_square(
    ask: Ask, x: Tensor, labels: list[int], classes: int, eps: float, queries: int, seed: int
) -> Tensor:
    """Square (Andriushchenko et al. 2020, arXiv 1912.00049), untargeted: it sees probabilities.

    Args:
        ask: answers.
        x: (B, 3, H, W) in [0, 1].
        labels: B right classes.
        classes: C.
        eps: l_inf radius.
        queries: most queries for each picture. ART takes three for each of its rounds.
        seed: of its squares.

    Returns:
        (B, 3, H, W): pictures in [0, 1] within eps of x.

    Raises:
        MissingExtra: the extra `redteam` is not installed.
    """
    require("redteam", "ART's square attack")
    from art.attacks.evasion import SquareAttack
    from art.estimators.classification import BlackBoxClassifierNeuralNetwork

    with _ONE_AT_A_TIME:
        np.random.seed(seed % 2**32)
        classifier = BlackBoxClassifierNeuralNetwork(
            lambda pictures: ask(torch.as_tensor(pictures, dtype=torch.float32)).numpy(),
            tuple(x.shape[1:]),
            classes,
            clip_values=(0.0, 1.0),
        )
        # Three queries before the first round: the picture twice, and stripes.
        attack = SquareAttack(classifier, eps=eps, max_iter=max(1, (queries - 3) // 3), verbose=False)
        return torch.as_tensor(attack.generate(x.numpy(), y=np.array(labels)))

"""AutoAttack (Croce and Hein 2020, arXiv 2003.01690), its version `rand` for randomised defences.

The package is its authors' and is run as it comes: APGD on cross-entropy, then APGD on the difference of
logits ratio for the pictures that are left. Both take 100 steps, and the mean of 20 gradients at each step
(EOT).
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import torch
from torch import Tensor

from smoothgate.extras import require
from smoothgate_lab.evaluation.attacks.pgd import Norm

#: Pictures (B, 3, H, W) -> logits (B, C). It may draw new noise at every call.
Logits = Callable[[Tensor], Tensor]

_NORMS = {"linf": "Linf", "l2": "L2"}
# It seeds the generator that all threads of torch share, and traces calls of functions.
_ONE_AT_A_TIME = threading.Lock()


def auto_attack(logits: Logits, x: Tensor, labels: Tensor, norm: Norm, eps: float, seed: int) -> Tensor:
    """Attack the logits of a classifier, untargeted.

    Args:
        logits: differentiable where gradients are on. Where they are off, AutoAttack checks what it found.
        x: (B, 3, H, W) in [0, 1].
        labels: (B,) right classes.
        norm: norm of the ball.
        eps: radius of the ball.
        seed: of its random starts.

    Returns:
        (B, 3, H, W): pictures in [0, 1] within eps of x. Where it finds nothing, the picture itself.

    Raises:
        MissingExtra: the extra `redteam` is not installed.
    """
    require("redteam", "AutoAttack")
    from pyautoattack import AutoAttack

    with _ONE_AT_A_TIME:
        state = torch.get_rng_state()
        try:
            attack = AutoAttack(logits, norm=_NORMS[norm], eps=eps, version="rand", seed=seed % 2**32)
            found: Tensor = attack.run_standard_evaluation(x, labels, batch_size=len(x))[0]
        finally:
            torch.set_rng_state(state)
    return found.detach()

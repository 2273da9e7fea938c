"""Projected gradient descent (Madry et al. 2018) within an l_inf or l2 ball of pictures in [0, 1]."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

Norm = Literal["linf", "l2"]
#: Pictures (B, 3, H, W) -> losses (B,) to minimise. It may draw new noise at every call.
Loss = Callable[[Tensor], Tensor]


def project(delta: Tensor, norm: Norm, eps: float) -> Tensor:
    """The nearest perturbations (B, 3, H, W) in the ball."""
    if norm == "linf":
        return delta.clamp(-eps, eps)
    shrink = (lengths(delta).clamp(min=1e-12).reciprocal() * eps).clamp(max=1.0)
    return delta * shrink


def lengths(delta: Tensor) -> Tensor:
    """l2 norms (B, 1, 1, 1) of perturbations (B, 3, H, W)."""
    norms: Tensor = torch.linalg.vector_norm(delta, dim=(1, 2, 3), keepdim=True)
    return norms


def steepest(gradient: Tensor, norm: Norm) -> Tensor:
    """The directions of steepest ascent, of length 1 in the norm."""
    if norm == "linf":
        return gradient.sign()
    return gradient / lengths(gradient).clamp(min=1e-12)


def descend(loss: Loss, x: Tensor, start: Tensor, norm: Norm, eps: float, steps: int, step: float) -> Tensor:
    """PGD from `start`.

    Args:
        loss: to minimise.
        x: (B, 3, H, W) in [0, 1].
        start: first perturbation, in the ball.
        norm: norm of the ball.
        eps: radius of the ball.
        steps: number of steps.
        step: length of each step, in the norm.

    Returns:
        (B, 3, H, W): pictures in [0, 1] within eps of x.
    """
    adversarial = (x + project(start, norm, eps)).clamp(0, 1)
    for _ in range(steps):
        adversarial = adversarial.detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(loss(adversarial).sum(), adversarial)
        moved = adversarial.detach() - step * steepest(gradient, norm)
        adversarial = (x + project(moved - x, norm, eps)).clamp(0, 1)
    return adversarial.detach()


def pgd(
    loss: Loss,
    x: Tensor,
    norm: Norm,
    eps: float,
    steps: int,
    gen: torch.Generator,
    *,
    restarts: int = 1,
) -> Tensor:
    """PGD from random starts with steps of 2.5 eps / `steps`. For each picture, the least loss is kept.

    Args:
        loss: to minimise.
        x: (B, 3, H, W) in [0, 1].
        norm: norm of the ball.
        eps: radius of the ball.
        steps: number of steps of each restart.
        gen: generator of the starts.
        restarts: number of starts.

    Returns:
        (B, 3, H, W): pictures in [0, 1] within eps of x.
    """
    best, least = x, torch.full((len(x),), torch.inf, device=x.device)
    for _ in range(restarts):
        end = descend(loss, x, _start(x, norm, eps, gen), norm, eps, steps, 2.5 * eps / steps)
        if restarts == 1:
            return end
        with torch.no_grad():
            reached = loss(end)
        better = reached < least
        best = torch.where(better.view(-1, 1, 1, 1), end, best)
        least = torch.where(better, reached, least)
    return best


def _start(x: Tensor, norm: Norm, eps: float, gen: torch.Generator) -> Tensor:
    if norm == "linf":
        return eps * (2 * torch.rand(x.shape, generator=gen).to(x) - 1)
    direction = torch.randn(x.shape, generator=gen).to(x)
    radius = torch.rand(len(x), 1, 1, 1, generator=gen).to(x) ** (1 / x[0].numel())
    return eps * radius * direction / lengths(direction)

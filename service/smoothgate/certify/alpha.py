"""How the error probability of a certificate is split. No other module splits it.

A certificate states several numbers that hold *together* with probability at least 1 - alpha:

    request      alpha
      image      alpha / images                                    `per_image`
        inner    INNER_SHARE * alpha_image                          `inner`
          bound  SHARES[j] * alpha_inner, one for each tilt         `per_tilt`
        angle    (1 - INNER_SHARE) * alpha_image / cosines          `per_cosine`

The inner product has all of the image's alpha where no angular radius is reported.

A vote certificate (`smoothgate.certify.votes`) is one statement about all images of a request. Its alpha is
split among the three probabilities that it bounds (`per_vote`).

Each tilt stands for one transform of the score whose mean is bounded (`smoothgate.certify.layer_cake`).
Tilt 0 is the score itself, which carries the paper's bound. The other tilts carry the layer-cake bound.
An angular radius (`smoothgate.certify.angular`) needs one bound, so the cosines share equally. A target names
one cosine. That cosine then has the whole part of the angle. Nothing else needs a share of alpha:

* Every eps, the whole curve and its radii follow from the same few means, so all of them hold at once.
* The bounds on the means are confidence *sequences*. They may be read after any number of samples, and
  sampling may stop there, without a share for checkpoints.
* Thresholds, transforms and bets are chosen on the selection split, before the first certification sample.
"""

from __future__ import annotations

import math

#: Tilts, in units of eps / sigma. Transform j is the best one where the layer-cake bound is read near eps =
#: tilt * sigma. Between the tilts the bound interpolates (`layer_cake.Moments.expected_score`). Measured on
#: beta scores of several shapes with n from 256 to 16384: a fourth tilt costs as much as it brings, and two
#: tilts lose up to 0.05 beyond 2 sigma.
TILTS: tuple[float, ...] = (0.0, 0.5, 1.5)

#: Share of the image's alpha for each tilt. The mean needs the smallest share, because in its bound
#: log(1 / alpha) is multiplied by a small variance.
SHARES: tuple[float, ...] = (0.2, 0.4, 0.4)

#: Shares of a vote certificate's alpha: the lower bound on the answer, and the upper bounds on the runner-up
#: and on the rest. Where all votes agree, the first bound alone decides.
VOTE_SHARES: tuple[float, float, float] = (0.9, 0.05, 0.05)
#: Cosines at which angular radii are reported where nobody names others.
COSINES: tuple[float, ...] = (0.5, 0.7, 0.8, 0.9, 0.95)

#: Share of the image's alpha for the inner product where angular radii are reported too. The budget is chosen
#: for the angular radii, so they have most of it. With Beta(194, 6) and n = 1,024 this costs them 0.01 sigma,
#: and the inner product loses 0.02 at eps = sigma.
INNER_SHARE = 0.2

_DOWN = 1.0 - 1e-12


def check_alpha(alpha: float) -> float:
    """Return alpha as a float; ValueError unless 0 < alpha < 1."""
    value = float(alpha)
    if not (math.isfinite(value) and 0.0 < value < 1.0):
        raise ValueError(f"alpha must lie strictly between 0 and 1, got {alpha!r}")
    return value


def per_image(alpha: float, images: int) -> float:
    """The share of one image of a request that holds `images` images (union bound), rounded down."""
    if images < 1:
        raise ValueError(f"images must be at least 1, got {images}")
    return check_alpha(alpha) / images * _DOWN


def inner(alpha: float, cosines: int) -> float:
    """The share of the inner product in one image's alpha, beside `cosines` angular radii, rounded down."""
    return check_alpha(alpha) * INNER_SHARE * _DOWN if cosines else check_alpha(alpha)


def per_cosine(alpha: float, cosines: int) -> float:
    """The share of one of `cosines` >= 1 angular radii in one image's alpha (union bound), rounded down."""
    return check_alpha(alpha) * (1.0 - INNER_SHARE) / cosines * _DOWN


def per_tilt(alpha: float) -> tuple[float, ...]:
    """The shares of the inner product's alpha, one for each of `TILTS` (union bound), rounded down."""
    return tuple(check_alpha(alpha) * share * _DOWN for share in SHARES)


def per_vote(alpha: float) -> tuple[float, ...]:
    """The shares of a vote certificate's alpha, in the order of `VOTE_SHARES` (union bound), rounded down."""
    return tuple(check_alpha(alpha) * share * _DOWN for share in VOTE_SHARES)

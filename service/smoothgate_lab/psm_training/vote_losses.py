"""Losses that make each single noisy sample answer as the picture without noise does.

The certified radius of an answer grows with the share of *single* samples that give it. `rb` and
`consistency` of `losses` speak of features, these of what the language model says.
"""

from __future__ import annotations

from torch import Tensor

# A sample whose answer is beyond help says nothing about how to help it.
_HOPELESS = 12.0
# eta of Jeong & Shin (2020), section 3.1.
_ENTROPY = 0.5


def distribution(spoken: Tensor, clean: Tensor, asked: Tensor) -> Tensor:
    """Kullback-Leibler divergence (B,) of the distributions without noise from a sample's, over the answer.

    Its gradient is that of the cross-entropy with the clean distributions as targets.

    Args:
        spoken: (B, A, V) log-probabilities of the sample.
        clean: (B, A, V) log-probabilities without noise.
        asked: (B, A) which places belong to the answer.
    """
    each = (clean.exp() * (clean - spoken)).sum(-1)
    summed: Tensor = (each * asked).sum(1)
    return summed.clamp(max=_HOPELESS)


def agreement(spoken: Tensor, asked: Tensor) -> Tensor:
    """Consistency regularisation (B,) of Jeong & Shin (2020), per place of the answer and summed.

    It is the divergence of the mean distribution from that of each noise, plus 0.5 of the mean's entropy.

    Args:
        spoken: (2 B, A, V) log-probabilities. Rows i and B + i are two noises of one picture.
        asked: (B, A) which places belong to the answer.
    """
    first, second = spoken.chunk(2)
    mean = (first.exp() + second.exp()) / 2
    log_mean = mean.clamp(min=1e-12).log()
    apart = (mean * (log_mean - (first + second) / 2)).sum(-1)
    entropy = -(mean * log_mean).sum(-1)
    summed: Tensor = ((apart + _ENTROPY * entropy) * asked).sum(1)
    return summed.clamp(max=_HOPELESS)

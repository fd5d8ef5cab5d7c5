"""Action distributions: what heads put out. Each is a few tensor operations: every update pays for them."""

from __future__ import annotations

import math

import torch
from torch.nn import functional as F

LOG_2PI = math.log(2 * math.pi)


class Categorical:
    """Probabilities over n choices.

    Args:
        logits: Unnormalized log-probabilities, `(B, n)`.
    """

    def __init__(self, logits: torch.Tensor) -> None:
        self.logits = logits
        self.log_probs = torch.log_softmax(logits, dim=-1)

    def log_prob(self, actions: torch.Tensor) -> torch.Tensor:
        """Log-probability of actions `(B,)`, counted from 0; `(B,)`."""
        return -F.nll_loss(self.log_probs, actions, reduction="none")

    def entropy(self) -> torch.Tensor:
        """Entropy in nats, `(B,)`."""
        return -(self.log_probs.exp() * self.log_probs).sum(-1)

    def mode(self) -> torch.Tensor:
        """The most probable action, `(B,)`."""
        return self.logits.argmax(-1)


class DiagonalGaussian:
    """Independent normal distributions.

    Args:
        mean: `(B, n)`.
        log_std: Logarithm of the standard deviation, `(B, n)` or `(n,)`.
    """

    def __init__(self, mean: torch.Tensor, log_std: torch.Tensor) -> None:
        self.mean = mean
        self.log_std = log_std

    def log_prob(self, actions: torch.Tensor) -> torch.Tensor:
        """Log-density of actions `(B, n)`; `(B,)`."""
        z = (actions - self.mean) * torch.exp(-self.log_std)
        return (-0.5 * z.square() - self.log_std).sum(-1) - 0.5 * LOG_2PI * self.mean.shape[-1]

    def entropy(self) -> torch.Tensor:
        """Differential entropy in nats, `(B,)` or, when the deviation does not depend on the observation, scalar."""
        return (self.log_std + 0.5 * (LOG_2PI + 1)).sum(-1)

    def mode(self) -> torch.Tensor:
        """The mean, `(B, n)`."""
        return self.mean


Distribution = Categorical | DiagonalGaussian

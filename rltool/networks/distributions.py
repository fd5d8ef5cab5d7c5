"""Action distributions: what heads put out. Each is a few tensor operations: every update pays for them."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch.nn import functional as F

LOG_2PI = math.log(2 * math.pi)
# Logit of a choice that must not be made: its probability is exactly 0, and, unlike with -inf, so is 0 * log 0.
FORBIDDEN = -1e30
# Before tanh, actions stay within -+ this: as a float64 inside the Box an action still says what it was before tanh (to
# 1e-8), and as a float32 it is the bound.
SQUASH_LIMIT = 10.0
EDGE = 1 / (1 + math.exp(2 * SQUASH_LIMIT))  # How near to a bound that is, as a part of the Box's width.
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(8)


class Categorical:
    """Probabilities over n choices.

    Args:
        logits: Unnormalized log-probabilities, `(B, n)`.
        mask: Which choices are allowed, `(B, n)`; the others get probability 0.
    """

    def __init__(self, logits: torch.Tensor, mask: torch.Tensor | None = None) -> None:
        if mask is not None:
            logits = torch.where(mask.bool(), logits, FORBIDDEN)
        self.logits = logits
        self.log_probs = torch.log_softmax(logits, dim=-1)

    def log_prob(self, actions: torch.Tensor) -> torch.Tensor:
        """Log-probability of actions `(B,)`, counted from 0; `(B,)`."""
        return -F.nll_loss(self.log_probs, actions, reduction="none")

    def uniform_log_prob(self) -> torch.Tensor:
        """Mean log-probability of all allowed choices, `(B,)`: what smoothed labels pull up."""
        allowed = self.logits > FORBIDDEN
        return torch.where(allowed, self.log_probs, 0.0).sum(-1) / allowed.sum(-1)

    def entropy(self) -> torch.Tensor:
        """Entropy in nats, `(B,)`."""
        return -(self.log_probs.exp() * self.log_probs).sum(-1)

    def mode(self) -> torch.Tensor:
        """The most probable action, `(B,)`."""
        return self.logits.argmax(-1)


class MultiCategorical:
    """k independent choices, each among m.

    Args:
        logits: Unnormalized log-probabilities, `(B, k, m)`; where there are fewer than m choices, the rest is no
            choice by the mask.
        mask: Which choices are allowed, `(B, k, m)` or `(k, m)`.
    """

    def __init__(self, logits: torch.Tensor, mask: torch.Tensor | None = None) -> None:
        self.shape = logits.shape[:2]
        mask = None if mask is None else mask.expand_as(logits).flatten(0, 1)
        self.choices = Categorical(logits.flatten(0, 1), mask)

    def log_prob(self, actions: torch.Tensor) -> torch.Tensor:
        """Log-probability of actions `(B, k)`, counted from 0; `(B,)`."""
        return self.choices.log_prob(actions.flatten().long()).view(self.shape).sum(-1)

    def uniform_log_prob(self) -> torch.Tensor:
        """Log-probability of actions `(B,)`, averaged over all that are allowed."""
        return self.choices.uniform_log_prob().view(self.shape).sum(-1)

    def entropy(self) -> torch.Tensor:
        """Entropy in nats, `(B,)`."""
        return self.choices.entropy().view(self.shape).sum(-1)

    def mode(self) -> torch.Tensor:
        """The most probable action, `(B, k)`."""
        return self.choices.mode().view(self.shape)


class Bernoulli:
    """n independent bits.

    Args:
        logits: Log-odds of a 1, `(B, n)`.
        mask: Which bits may be 1, `(B, n)`; the others are 0.
    """

    def __init__(self, logits: torch.Tensor, mask: torch.Tensor | None = None) -> None:
        self.logits = logits if mask is None else torch.where(mask.bool(), logits, FORBIDDEN)

    def log_prob(self, actions: torch.Tensor) -> torch.Tensor:
        """Log-probability of actions `(B, n)` of 0 and 1; `(B,)`."""
        actions = actions.to(self.logits.dtype)
        return -F.binary_cross_entropy_with_logits(self.logits, actions, reduction="none").sum(-1)

    def uniform_log_prob(self) -> torch.Tensor:
        """Log-probability of actions `(B,)`, averaged over all that are allowed."""
        # log sigmoid(x) and log sigmoid(-x) of a free bit; one that must be 0 is 0 for certain.
        both = -0.5 * (F.softplus(-self.logits) + F.softplus(self.logits))
        return torch.where(self.logits > FORBIDDEN, both, 0.0).sum(-1)

    def entropy(self) -> torch.Tensor:
        """Entropy in nats, `(B,)`."""
        return (F.softplus(self.logits) - self.logits * torch.sigmoid(self.logits)).sum(-1)

    def mode(self) -> torch.Tensor:
        """The most probable action, `(B, n)`."""
        return (self.logits > 0).to(torch.int8)


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


class SquashedGaussian(DiagonalGaussian):
    """A Gaussian sent through tanh and stretched over a Box (Haarnoja et al., 2018, appendix C).

    Args:
        mean: Mean before tanh, `(B, n)`.
        log_std: Logarithm of the standard deviation before tanh, `(B, n)` or `(n,)`.
        low: Lower bounds of the Box, `(n,)`, float64.
        high: Upper bounds, `(n,)`, float64.
    """

    def __init__(self, mean: torch.Tensor, log_std: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> None:
        super().__init__(mean, log_std)
        self.low = low
        self.width = high - low

    def log_prob(self, actions: torch.Tensor) -> torch.Tensor:
        """Log-density of actions `(B, n)` in the Box; `(B,)`.

        What they were before tanh is read off them: exactly for float64, which is what the head's sampler draws.
        Float32 cannot tell two actions near a bound apart.
        """
        raw = (0.5 * torch.logit((actions - self.low) / self.width, EDGE)).to(self.mean.dtype)
        return super().log_prob(raw) - self._log_slope(raw).sum(-1)

    def entropy(self) -> torch.Tensor:
        """Differential entropy in nats, `(B,)`.

        That of the Gaussian plus the mean of the logarithm of the slope, which has no closed form: Gauss-Hermite
        quadrature with eight nodes, so that the gradient knows that a wide Gaussian gathers at the bounds.
        """
        nodes, weights = (self.mean.new_tensor(values) for values in (NODES, WEIGHTS / WEIGHTS.sum()))
        raw = self.mean + nodes[:, None, None] * self.log_std.exp()  # (8, B, n)
        return super().entropy() + torch.tensordot(weights, self._log_slope(raw), 1).sum(-1)

    def mode(self) -> torch.Tensor:
        """The Gaussian's mode, squashed, `(B, n)`."""
        raw = self.mean.double().clamp(-SQUASH_LIMIT, SQUASH_LIMIT)
        return self.low + (torch.tanh(raw) + 1) * (self.width / 2)

    def _log_slope(self, raw: torch.Tensor) -> torch.Tensor:
        # log(1 - tanh(x)^2) in a form that does not underflow, and the stretching.
        return 2 * (math.log(2) - raw - F.softplus(-2 * raw)) + torch.log(self.width / 2).to(raw.dtype)


Distribution = Categorical | MultiCategorical | Bernoulli | DiagonalGaussian

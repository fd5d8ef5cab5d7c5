"""Choosing weights without a label of the target: figures of held-out examples, the larger, the better."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional as F

from rltool.adaptation.losses import entropy


class Validation(NamedTuple):
    """Held-out examples as a classifier sees them.

    Attributes:
        source: Features in the source `(n, d)`.
        target: Features in the target `(m, d)`.
        source_logits: What is said of the source's `(n, classes)`.
        target_logits: What is said of the target's `(m, classes)`.
        y: Labels of the source's `(n,)`.
    """

    source: torch.Tensor
    target: torch.Tensor
    source_logits: torch.Tensor
    target_logits: torch.Tensor
    y: torch.Tensor


def source_accuracy(seen: Validation) -> float:
    """Accuracy in the source: right where the two domains are alike."""
    return float((seen.source_logits.argmax(-1) == seen.y).float().mean())


def certainty(seen: Validation) -> float:
    """Negative mean entropy in the target: right where classes keep apart, but highest in a collapse."""
    return -float(entropy(seen.target_logits))


def nuclear_norm(seen: Validation) -> float:
    """Nuclear norm of the target's predictions, in [0, 1]: certain and of all classes alike (Cui et al., CVPR 2020)."""
    p = seen.target_logits.softmax(-1)
    return float(torch.linalg.matrix_norm(p, "nuc")) / (len(p) * min(p.shape)) ** 0.5


def embedded_validation(seen: Validation) -> float:
    """Negative risk in the target, from the source's by importance weights (You et al., DEV, ICML 2019).

    An example of the source weighs as much as the target's are denser at its features, which a logistic regression of
    the domains says; a control variate lessens the estimate's variance.
    """
    weights = density_ratio(seen.source.cpu().numpy(), seen.target.cpu().numpy())
    losses = F.cross_entropy(seen.source_logits, seen.y, reduction="none").cpu().numpy()
    weighted = weights * losses
    covariance = np.cov(weighted, weights)
    slope = -covariance[0, 1] / max(covariance[1, 1], 1e-12)
    return -float(weighted.mean() + slope * (weights.mean() - 1))


def density_ratio(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Density of the target over that of the source, at examples of the source `(n, d)`."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    x = StandardScaler().fit_transform(np.concatenate([source, target]))
    domain = np.repeat([0, 1], [len(source), len(target)])
    odds = LogisticRegression(C=0.1, max_iter=200).fit(x, domain).decision_function(x[: len(source)])
    return np.exp(np.clip(odds, -10, 10)) * len(source) / len(target)


CRITERIA: dict[str, Callable[[Validation], float]] = {
    "risk": source_accuracy,
    "entropy": certainty,
    "bnm": nuclear_norm,
    "dev": embedded_validation,
    "last": lambda seen: 0.0,
}

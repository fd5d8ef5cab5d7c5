"""What an attack maximizes: functions from outputs and labels to losses `(B,)`, each sample's its own.

The notes (Lecture 10) minimize L = -e(y, y_hat), or L = -e(y, y_hat) + e(y, y_target) with a target; here the same
functions are maximized with the opposite sign.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional as F

Objective = Callable[[torch.Tensor], torch.Tensor]  # From outputs (B, K) to losses (B,).


def cross_entropy(logits: torch.Tensor, y: torch.Tensor, target: torch.Tensor | None = None) -> torch.Tensor:
    """-log p(y), or log p(target)."""
    if target is None:
        return F.cross_entropy(logits, y, reduction="none")
    return -F.cross_entropy(logits, target, reduction="none")


def away_and_towards(logits: torch.Tensor, y: torch.Tensor, target: torch.Tensor | None = None) -> torch.Tensor:
    """The targeted loss of the notes: away from the label and towards the target, log p(target) - log p(y)."""
    away = F.cross_entropy(logits, y, reduction="none")
    return away if target is None else away - F.cross_entropy(logits, target, reduction="none")


def margin(logits: torch.Tensor, y: torch.Tensor, target: torch.Tensor | None = None) -> torch.Tensor:
    """How far the best other class is above the label, or the target above the best other class.

    Above 0 exactly where the attack has succeeded; adding a number to all logits changes nothing.
    """
    if target is not None:
        return -margin(logits, target)
    chosen = y[:, None]
    best = logits.detach().scatter(1, chosen, -torch.inf).argmax(1, keepdim=True)
    # One gather and one product: their gradients are cheap, and an attack takes many.
    return logits.gather(1, torch.cat([best, chosen], 1)) @ logits.new_tensor([1.0, -1.0])


def dlr(logits: torch.Tensor, y: torch.Tensor, target: torch.Tensor | None = None) -> torch.Tensor:
    """The difference of logits ratio (Croce & Hein, 2020): a margin that scaling the logits does not change.

    It divides by the distance from the first to the third logit (with a target, to the mean of third and fourth):
    where there are too few classes for that, it is the margin.
    """
    if logits.shape[1] < 4:
        return margin(logits, y, target)
    ordered = logits.sort(dim=1, descending=True).values
    if target is None:
        return margin(logits, y) / (ordered[:, 0] - ordered[:, 2] + 1e-12)
    rows = torch.arange(len(y), device=y.device)
    spread = ordered[:, 0] - (ordered[:, 2] + ordered[:, 3]) / 2 + 1e-12
    return (logits[rows, target] - logits[rows, y]) / spread


LOSSES = {"ce": cross_entropy, "margin": margin, "dlr": dlr, "away-towards": away_and_towards}

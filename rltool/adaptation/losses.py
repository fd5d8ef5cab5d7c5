"""Losses of adaptation: pure functions of features and logits, each a scalar that is minimized."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch.nn import functional as F


def entropy(logits: torch.Tensor) -> torch.Tensor:
    """Mean entropy of predictions `(B, classes)`, in nats (Grandvalet & Bengio, NIPS 2004)."""
    log_p = logits.log_softmax(-1)
    return -(log_p.exp() * log_p).sum(-1).mean()


def marginal_entropy(logits: torch.Tensor) -> torch.Tensor:
    """Entropy of the mean prediction: large where all classes are predicted alike often, 0 where one is for all."""
    log_p = (logits.log_softmax(-1).logsumexp(0) - torch.log(torch.tensor(float(len(logits))))).clamp_min(-50)
    return -(log_p.exp() * log_p).sum()


def domain_cross_entropy(
    source: torch.Tensor, target: torch.Tensor, importance: torch.Tensor | None = None
) -> torch.Tensor:
    """Half the cross-entropy of logits that should be large for the source and small for the target.

    Log 2 where the two cannot be told apart. Logits, never probabilities: what is squashed twice has no gradient.

    Args:
        source: `(n,)`.
        target: `(m,)`.
        importance: How much each of them counts `(n + m,)`, 1 on average.
    """
    losses = F.softplus(-source), F.softplus(target)
    if importance is not None:
        weights = importance.split([len(source), len(target)])
        losses = losses[0] * weights[0], losses[1] * weights[1]
    return 0.5 * (losses[0].mean() + losses[1].mean())


def coral(source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """|C_s - C_t|^2 / (4 d^2) of the covariances of features `(B, d)` (Sun & Saenko, "Deep CORAL", ECCV 2016)."""
    if min(len(source), len(target)) < 2:  # One row has no covariance.
        return 0 * (source.sum() + target.sum())
    return (source.T.cov() - target.T.cov()).square().sum() / (4 * source.shape[1] ** 2)


def mmd(
    source: torch.Tensor, target: torch.Tensor, scales: Sequence[float] = (0.25, 0.5, 1.0, 2.0, 4.0)
) -> torch.Tensor:
    """Squared maximum mean discrepancy of features under a mean of Gaussian kernels (Long et al., DAN, ICML 2015).

    Args:
        source: Features `(n, d)`.
        target: Features `(m, d)`.
        scales: Widths of the kernels exp(-|x - y|^2 / width), in units of the mean squared distance of all pairs.

    Returns:
        The biased estimate, which is never negative.
    """
    both = torch.cat([source, target])
    distance = torch.cdist(both, both).square() if both.shape[1] < 4 else _squared_distances(both)
    n, total = len(source), len(both)
    width = distance.detach().sum() / max(total * (total - 1), 1) + 1e-12
    kernel = torch.stack([torch.exp(-distance / (scale * width)) for scale in scales]).mean(0)
    return kernel[:n, :n].mean() + kernel[n:, n:].mean() - 2 * kernel[:n, n:].mean()


def _squared_distances(x: torch.Tensor) -> torch.Tensor:
    squares = x.square().sum(1)
    return (squares[:, None] + squares - 2 * x @ x.T).clamp_min(0)


def discrepancy(one: torch.Tensor, two: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference of the probabilities that two classifiers' logits say (Saito et al., MCD, CVPR 2018)."""
    return (one.softmax(-1) - two.softmax(-1)).abs().mean()


def outer(features: torch.Tensor, probabilities: torch.Tensor) -> torch.Tensor:
    """What CDAN's domain classifier sees: all products of a feature and a probability (Long et al., NeurIPS 2018).

    Args:
        features: `(B, d)`.
        probabilities: Of the classes, `(B, classes)`.

    Returns:
        `(B, d * classes)`.
    """
    return (features[:, :, None] * probabilities[:, None]).flatten(1)


def divergence(wanted: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """KL(softmax(wanted) || softmax(logits)), the mean over rows; no gradient passes into `wanted`."""
    return F.kl_div(logits.log_softmax(-1), wanted.detach().log_softmax(-1), reduction="batchmean", log_target=True)


def virtual_adversarial(
    predict: Callable[[torch.Tensor], torch.Tensor],
    x: torch.Tensor,
    logits: torch.Tensor,
    radius: float,
    probe: float = 1e-2,
) -> torch.Tensor:
    """How far predictions move in the worst direction of a ball (Miyato et al., "Virtual adversarial training", 2018).

    The direction is found by one step of power iteration; the gradients of weights that were collected before stay.

    Args:
        predict: From inputs to logits `(B, classes)`.
        x: Inputs `(B, ...)`.
        logits: What it says of them.
        radius: Euclidean length of the perturbation of an input, over the root of its number of values.
        probe: Length, in the same unit, of the random perturbation that the direction is found by.
    """
    size = x[0].numel() ** 0.5
    noise = (_unit(torch.randn_like(x)) * (probe * size)).requires_grad_()
    (direction,) = torch.autograd.grad(divergence(logits, predict(x + noise)), noise)
    return divergence(logits, predict(x + _unit(direction) * (radius * size)))


def _unit(x: torch.Tensor) -> torch.Tensor:
    return F.normalize(x.flatten(1), eps=1e-20).view_as(x)


def one_vs_all(logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Cross-entropies of a class's own classifier, and of the hardest other one (Saito & Saenko, OVANet, ICCV 2021).

    Args:
        logits: Of each class against all others `(B, classes)`; above 0 it is that class.
        y: Labels `(B,)`.

    Returns:
        `(B,)`.
    """
    own = y[:, None]
    return F.softplus(-logits.gather(1, own)).squeeze(1) + hardest_negative(logits.scatter(1, own, -torch.inf))


def hardest_negative(logits: torch.Tensor) -> torch.Tensor:
    """Cross-entropy `(B,)` of saying no by the classifier that says it least, of logits `(B, classes)`."""
    return F.softplus(logits.amax(-1))


def binary_entropy(logits: torch.Tensor) -> torch.Tensor:
    """Mean entropy, in nats, of the yes or no that each logit stands for."""
    return (F.softplus(-logits) + logits * (-logits).sigmoid()).mean()


def distance_to(start: Sequence[torch.Tensor], now: Sequence[torch.Tensor]) -> torch.Tensor:
    """Half the squared distance of weights to where they started (Li et al., "L2-SP", ICML 2018)."""
    return 0.5 * torch.stack([(a - b.detach()).square().sum() for a, b in zip(now, start, strict=True)]).sum()

"""Is the adversary doing anything? Checks of methods that align features by a domain classifier."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from rltool.errors import TrainingError

INERT = 1e-10  # Gradient of a domain classifier, per feature vector, below which nothing arrives.
TOLD_APART = 0.9  # Accuracy of a domain classifier that features have not fled from.
FAR, NEAR = 1.0, 0.4  # Proxy A-distances, of 0 to 2.
OTHERWISE = 0.2  # How far accuracy falls between domains that look alike, if their labels differ.
MOST = 2_000  # Examples of a domain that a distance is measured on.


def proxy_a_distance(source: np.ndarray, target: np.ndarray, seed: int = 0) -> float:
    """2 (1 - 2 error) of a linear classifier of the domains, on examples that it has not learned from.

    From 0, the domains look alike, to 2, they are told apart without error (Ben-David et al., NIPS 2007). Domains of
    different size count alike.

    Args:
        source: Features `(n, d)`.
        target: Features `(m, d)`.
        seed: Decides which half is learned from.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    rng = np.random.default_rng(seed)
    count = min(len(source), len(target), MOST)
    parts = [part[rng.permutation(len(part))[:count]] for part in (source, target)]
    x = StandardScaler().fit_transform(np.concatenate(parts))
    y, learned = np.repeat([0, 1], count), np.tile(np.arange(count) % 2 == 0, 2)
    error = 1 - LogisticRegression(C=1.0, max_iter=200).fit(x[learned], y[learned]).score(x[~learned], y[~learned])
    return float(max(0.0, 2 * (1 - 2 * error)))


def gradient_into_features(
    adversarial_loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], source: torch.Tensor, target: torch.Tensor
) -> float:
    """Norm of the gradient that a domain classifier gives a feature vector, the mean over examples.

    Args:
        adversarial_loss: What the features are to minimize.
        source: Features of the source `(n, d)`.
        target: Features of the target `(m, d)`.
    """
    features = [each.detach().requires_grad_() for each in (source, target)]
    loss = adversarial_loss(*features)
    if not loss.requires_grad:
        return 0.0
    gradients = [each for each in torch.autograd.grad(loss, features, allow_unused=True) if each is not None]
    return sum(float(each.norm(dim=1).sum()) for each in gradients)


def refuse_inert(gradient: float, accuracy: float) -> None:
    """End a training in which the domain classifier can teach the features nothing.

    Args:
        gradient: What `gradient_into_features` returned.
        accuracy: How often it tells the domains apart.

    Raises:
        TrainingError: It is inert.
    """
    if gradient < INERT and accuracy < TOLD_APART:
        raise TrainingError(
            f"the domain classifier does nothing: the gradient that arrives at the features is {gradient:.1g}, and it "
            f"is right {accuracy:.0%} of the time; its output must be a logit, and nothing may cut it off"
        )


def concept_shift(figures: Mapping[str, Any]) -> list[str]:
    """Whether domains that look alike are labeled otherwise, in a sentence.

    Args:
        figures: Of the controls: `a_distance_before`, `source_only_accuracy`, `target_oracle_accuracy`.
    """
    without, oracle = figures.get("source_only_accuracy"), figures.get("target_oracle_accuracy")
    before = figures.get("a_distance_before", FAR)
    if without is None or oracle is None or before >= NEAR or oracle - without < OTHERWISE:
        return []
    return [
        f"the domains look alike (proxy A-distance {before:.2f}), but are labeled otherwise: a "
        "concept shift, of which examples without labels say nothing; give a few labels of the target to fine-tune"
    ]


def describe_adversary(figures: Mapping[str, Any]) -> list[str]:
    """What the last figures of a domain classifier say, in sentences.

    Args:
        figures: `domain_accuracy` of the training, and `a_distance` of the features it ended with.
    """
    if "domain_accuracy" not in figures:
        return []
    accuracy, distance = figures["domain_accuracy"], figures.get("a_distance", FAR)
    told = f"the domain classifier is right {accuracy:.0%} of the time"
    if "a_distance" in figures:
        told += f", and the features' proxy A-distance is {distance:.2f} (0: alike, 2: apart)"
    if accuracy > TOLD_APART:
        return [told + "; the features have not fled from it: raise --weight, or lower --domain-learning-rate"]
    if distance > FAR:
        return [told + "; a new linear classifier still tells them apart: they were aligned in part only"]
    if distance < NEAR:
        return [told + "; the domains look alike to it"]
    return [told]

"""Adversarial losses: pairs of pure functions of logits.

A logit is what the discriminator says of an example before any squashing: large for real, small for fake. Every loss
is written so that neither its value nor its gradient overflows or vanishes by rounding, whatever the logits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn.functional import relu, softplus

Logits = torch.Tensor


@dataclass(frozen=True)
class AdversarialLoss:
    """What the two networks minimize; both take logits `(n,)` and return a scalar.

    Attributes:
        discriminator: Called as `discriminator(real, fake)`.
        generator: Called as `generator(fake, real)`.
        compares: Whether the generator's loss looks at `real`; where it does not, it may be anything.
    """

    discriminator: Callable[[Logits, Logits], torch.Tensor]
    generator: Callable[[Logits, Logits], torch.Tensor]
    compares: bool = False


def cross_entropy(real: Logits, fake: Logits) -> torch.Tensor:
    """-E log sigmoid(real) - E log(1 - sigmoid(fake)) (Goodfellow et al., "Generative adversarial nets", NIPS 2014)."""
    return softplus(-real).mean() + softplus(fake).mean()


def saturating(fake: Logits, real: Logits) -> torch.Tensor:
    """E log(1 - sigmoid(fake)): the generator's side of the minimax game, flat where fakes are recognized."""
    return -softplus(fake).mean()


def non_saturating(fake: Logits, real: Logits) -> torch.Tensor:
    """-E log sigmoid(fake): steepest where fakes are recognized."""
    return softplus(-fake).mean()


def least_squares(real: Logits, fake: Logits) -> torch.Tensor:
    """Half the squared distance of real to 1 and of fake to 0 (Mao et al., ICCV 2017)."""
    return 0.5 * ((real - 1).square().mean() + fake.square().mean())


def least_squares_generator(fake: Logits, real: Logits) -> torch.Tensor:
    """Half the squared distance of fake to 1."""
    return 0.5 * (fake - 1).square().mean()


def hinge(real: Logits, fake: Logits) -> torch.Tensor:
    """Real is to be above 1 and fake below -1 (Lim & Ye, "Geometric GAN", 2017)."""
    return relu(1 - real).mean() + relu(1 + fake).mean()


def wasserstein(real: Logits, fake: Logits) -> torch.Tensor:
    """Minus the difference of the means, an estimate of the earth mover's distance (Arjovsky et al., ICML 2017)."""
    return fake.mean() - real.mean()


def raise_fake(fake: Logits, real: Logits) -> torch.Tensor:
    """Minus the mean: the generator's side of the hinge and Wasserstein losses."""
    return -fake.mean()


def relativistic(real: Logits, fake: Logits) -> torch.Tensor:
    """-E log sigmoid(real - fake), in pairs (Jolicoeur-Martineau, "The relativistic discriminator", ICLR 2019)."""
    return softplus(fake - real).mean()


def relativistic_generator(fake: Logits, real: Logits) -> torch.Tensor:
    """-E log sigmoid(fake - real), in pairs."""
    return softplus(real - fake).mean()


def relativistic_average(real: Logits, fake: Logits) -> torch.Tensor:
    """The same, each against the mean of the others (RaGAN)."""
    return softplus(fake.mean() - real).mean() + softplus(fake - real.mean()).mean()


def relativistic_average_generator(fake: Logits, real: Logits) -> torch.Tensor:
    """The other way round."""
    return relativistic_average(fake, real)


LOSSES: dict[str, AdversarialLoss] = {
    "minimax": AdversarialLoss(cross_entropy, saturating),
    "non-saturating": AdversarialLoss(cross_entropy, non_saturating),
    "least-squares": AdversarialLoss(least_squares, least_squares_generator),
    "hinge": AdversarialLoss(hinge, raise_fake),
    "wasserstein": AdversarialLoss(wasserstein, raise_fake),
    "relativistic": AdversarialLoss(relativistic, relativistic_generator, compares=True),
    "relativistic-average": AdversarialLoss(relativistic_average, relativistic_average_generator, compares=True),
}

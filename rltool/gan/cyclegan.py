"""Translation learned without pairs: two translators, each of which must undo what the other does.

A discriminator of the target makes translations look right, and the way back makes them keep what the source shows.
Zhu et al., "Unpaired image-to-image translation using cycle-consistent adversarial networks", ICCV 2017.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import nn

from rltool.data.pairs import DomainPair
from rltool.gan.learner import Batch, Figures
from rltool.gan.metrics.sums import Estimate
from rltool.gan.networks import Discriminator
from rltool.gan.penalties import PENALTIES
from rltool.gan.recognition import recognized
from rltool.gan.translation import TranslationLearner, mean_difference
from rltool.gan.translation_config import CycleGANConfig
from rltool.networks.translator import Translator
from rltool.training.checkpoint import State


class Translators(nn.Module):
    """From the source to the target, and back."""

    def __init__(self, there: Translator, back: Translator) -> None:
        super().__init__()
        self.there, self.back = there, back


class Discriminators(nn.Module):
    """Of the target, and of the source."""

    def __init__(self, target: Discriminator, source: Discriminator) -> None:
        super().__init__()
        self.target, self.source = target, source


class ImagePool:
    """Earlier translations, so that a discriminator does not forget them (Shrivastava et al., CVPR 2017).

    Args:
        size: How many are kept.
        shape: Of one image.
        device: Where they live.

    Attributes:
        images: The kept ones `(size, ...)`; zeros where there is none yet.
        filled: How many there are.
    """

    def __init__(self, size: int, shape: tuple[int, ...], device: torch.device) -> None:
        self.images = torch.zeros(size, *shape, device=device)
        self.filled = 0

    def exchange(self, x: torch.Tensor) -> torch.Tensor:
        """New images `(n, ...)`, about half of them exchanged for earlier ones; until the pool is full, as they are."""
        free = self.images[self.filled : self.filled + len(x)]
        if len(free):
            free.copy_(x[: len(free)])
            self.filled += len(free)
            return x
        places = torch.randperm(len(self.images), device=x.device)[: len(x)]
        rows = torch.nonzero(torch.rand(len(places), device=x.device) < 0.5)[:, 0]
        mixed = x.clone()
        mixed[rows] = self.images[places[rows]]
        self.images[places[rows]] = x[rows]
        return mixed


class CycleGAN(TranslationLearner):
    """Image-to-image translation without pairs.

    Domains that are paired are learned from as if they were not: each keeps half of the training rows, the source one
    half and the target the other, so that no image is there in both.
    """

    method, config_class = "cyclegan", CycleGANConfig
    config: CycleGANConfig

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.pools = {
            name: ImagePool(self.config.pool_size, self.shape, self.device) for name in ("pool_target", "pool_source")
        }

    def networks(self) -> tuple[nn.Module, nn.Module]:
        translators = Translators(self.build_translator(), self.build_translator())
        return translators, Discriminators(*(Discriminator(self.config, self.shape) for _ in range(2)))

    @cached_property
    def unpaired(self) -> DomainPair:
        """What is learned from."""
        return self.pair.unpaired(self.seed)

    @cached_property
    def real(self) -> torch.Tensor:
        return torch.from_numpy(self.unpaired.target.train.x).to(self.device)

    @cached_property
    def sources(self) -> torch.Tensor:
        return torch.from_numpy(self.unpaired.source.train.x).to(self.device)

    def batch(self) -> Batch:
        x, source = (
            images[torch.randint(len(images), (self.config.batch_size,), device=self.device)]
            for images in (self.real, self.sources)
        )
        return Batch(x, source)

    def discriminator_loss(self) -> tuple[torch.Tensor, Figures]:
        target, source = self.batch()
        translators, discriminators = self.model.generator, self.model.discriminator
        assert source is not None
        with torch.no_grad():
            fake_target = self.pools["pool_target"].exchange(translators.there(source))
            fake_source = self.pools["pool_source"].exchange(translators.back(target))
        loss = self.separation_loss(discriminators.target, target, fake_target)
        loss = loss + self.separation_loss(discriminators.source, source, fake_source)
        return loss, {"discriminator_loss": loss.detach() / 2}

    def separation_loss(self, discriminator: Discriminator, real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
        """How far a discriminator is from telling real from fake images `(n, ...)`; with its penalty."""
        real, fake = self.augment(real), self.augment(fake)
        loss = self.loss.discriminator(discriminator(real), discriminator(fake))
        if self.config.penalty != "none":
            penalty = PENALTIES[self.config.penalty](discriminator, real, fake, float(discriminator.std))
            loss = loss + self.config.penalty_weight * penalty
        return loss

    def generator_loss(self) -> tuple[torch.Tensor, Figures]:
        target, source = self.batch()
        there, back = self.model.generator.there, self.model.generator.back
        discriminators, config = self.model.discriminator, self.config
        assert source is not None
        fake_target, fake_source = there(source), back(target)
        fooling = self.deception_loss(discriminators.target, fake_target, target)
        fooling = fooling + self.deception_loss(discriminators.source, fake_source, source)
        cycle = (back(fake_target) - source).abs().mean() + (there(fake_source) - target).abs().mean()
        loss = fooling + config.cycle_weight * cycle
        figures = {"generator_loss": fooling.detach(), "cycle_l1": cycle.detach() / 2}
        if config.identity_weight:
            identity = (there(target) - target).abs().mean() + (back(source) - source).abs().mean()
            loss = loss + config.identity_weight * identity
            figures["identity_l1"] = identity.detach() / 2
        return loss, figures

    def deception_loss(self, discriminator: Discriminator, fake: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        """How far a discriminator is from taking fake images `(n, ...)` for real."""
        fake_logits = discriminator(self.augment(fake))
        real_logits = discriminator(self.augment(real)) if self.loss.compares else fake_logits
        return self.loss.generator(fake_logits, real_logits)

    # Measuring

    def translate(self, x: np.ndarray, back: bool = False) -> np.ndarray:
        """Translate images `(n, channels, height, width)` in [0, 1] from the source to the target, or back."""
        return self.fit(x, self.averaged.back if back else self.averaged.there)

    def measure(self, extractor: str = "auto") -> dict[str, Estimate]:
        """Figures of `TranslationLearner.measure`, and two more.

        Returns:
            Also `class_kept_back`, the same from the target to the source; and `cycle_l1`, the mean absolute
            difference between test images and their translation there and back.
        """
        figures, source, target = super().measure(extractor), self.pair.source, self.pair.target
        if "class_kept" in figures:
            kept = recognized(source, self.translate(target.test.x, back=True), target.test.y)
            assert kept is not None  # Where images of one domain have a classifier, those of the other have.
            figures["class_kept_back"] = kept
        x = source.test.x
        figures["cycle_l1"] = mean_difference(self.translate(self.translate(x), back=True), x)
        return figures

    def rows(self, x: np.ndarray) -> list[np.ndarray]:
        translated = self.translate(x)
        return [x, translated, self.translate(translated, back=True)]

    # State

    def checkpoint(self) -> State:
        state = super().checkpoint()
        for name, pool in self.pools.items():
            state.tensors[name] = pool.images.clone()
            state.values[name] = pool.filled
        return state

    def restore(self, state: State) -> bool:
        for name, pool in self.pools.items():
            pool.images.copy_(state.tensors[name])
            pool.filled = state.values[name]
        return super().restore(state)

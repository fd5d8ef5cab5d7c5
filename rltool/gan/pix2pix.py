"""Translation learned from pairs: a discriminator that sees both images of a pair, and the difference to the right one.

Supervised learning alone makes the mean of all that could be right, which is blurred; the discriminator alone may
forget what it was given. Isola et al., "Image-to-image translation with conditional adversarial networks", CVPR 2017.
"""

from __future__ import annotations

import torch
from torch import nn

from rltool.errors import UserError
from rltool.gan.learner import Batch, Figures
from rltool.gan.networks import Discriminator
from rltool.gan.translation import TranslationLearner
from rltool.gan.translation_config import Pix2PixConfig


class Pix2Pix(TranslationLearner):
    """Image-to-image translation from pairs."""

    method, config_class = "pix2pix", Pix2PixConfig
    config: Pix2PixConfig

    def networks(self) -> tuple[nn.Module, nn.Module]:
        channels, *size = self.shape
        return self.build_translator(), Discriminator(self.config, (2 * channels, *size))

    def prepare(self) -> None:
        super().prepare()
        if not self.pair.paired:
            source, target = self.pair.source, self.pair.target
            raise UserError(
                f"pix2pix learns from pairs, row by row, and {source.name} ({len(source.train):,} examples) and "
                f"{target.name} ({len(target.train):,}) are not: their labels differ; take cyclegan"
            )

    def batch(self) -> Batch:
        rows = torch.randint(len(self.real), (self.config.batch_size,), device=self.device)
        return Batch(self.real[rows], self.sources[rows])

    def judge(self, x: torch.Tensor, condition: torch.Tensor | None = None) -> torch.Tensor:
        assert condition is not None
        return self.model.discriminator(torch.cat([condition, x], 1))

    @property
    def discriminator_steps(self) -> int:
        """None where the translator does not ask."""
        return super().discriminator_steps if self.config.adversarial_weight else 0

    def generator_loss(self) -> tuple[torch.Tensor, Figures]:
        batch, config = self.batch(), self.config
        translated = self.generate(batch)
        difference = (translated - batch.x).abs().mean()
        loss, figures = config.l1_weight * difference, {"l1": difference.detach()}
        if config.adversarial_weight:
            fooling = self.fooling_loss(translated, batch)
            loss = loss + config.adversarial_weight * fooling
            figures["generator_loss"] = fooling.detach()
        return loss, figures

"""Sequence GAN: a generator of tokens that is trained by policy gradient on what a discriminator says of them."""

from typing import TYPE_CHECKING

from rltool.lazy import lazy_exports

if TYPE_CHECKING:
    from rltool.gan.sequence.config import SeqGANConfig as SeqGANConfig
    from rltool.gan.sequence.learner import SeqGAN as SeqGAN

__getattr__, __dir__, __all__ = lazy_exports(__name__, {"config": ["SeqGANConfig"], "learner": ["SeqGAN"]})

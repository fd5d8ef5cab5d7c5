"""Generative adversarial networks on the shared backbones."""

from typing import TYPE_CHECKING

from rltool.lazy import lazy_exports

if TYPE_CHECKING:
    from rltool.gan.config import GANConfig as GANConfig
    from rltool.gan.learner import GANLearner as GANLearner
    from rltool.gan.losses import LOSSES as LOSSES
    from rltool.gan.networks import Discriminator as Discriminator
    from rltool.gan.networks import Generator as Generator

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "config": ["GANConfig"],
        "learner": ["GANLearner"],
        "losses": ["LOSSES"],
        "networks": ["Discriminator", "Generator"],
    },
)

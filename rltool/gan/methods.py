"""GANs as methods of `rltool train`."""

from __future__ import annotations

from rltool.gan.conditional_config import ConditionalGANConfig
from rltool.gan.config import GANConfig, GANRunConfig, LSGANConfig, SNGANConfig, WGANConfig, WGANGPConfig
from rltool.gan.presets import PRESETS
from rltool.gan.translation_config import CycleGANConfig, Pix2PixConfig
from rltool.training.methods import Method


def make_method(name: str, config: type[GANConfig], learner: str, data: str = "DATASET", metric: str = "fid") -> Method:
    """A method that trains a GAN."""
    return Method(
        config,
        learner,
        data=data,
        presets=PRESETS.get(name, {}),
        run=GANRunConfig,
        training_metric="train/discriminator_loss",
        evaluation_metric=metric,
    )


gan = make_method("gan", GANConfig, "rltool.gan.learner:GAN")
lsgan = make_method("lsgan", LSGANConfig, "rltool.gan.learner:LSGAN")
wgan = make_method("wgan", WGANConfig, "rltool.gan.learner:WGAN")
wgan_gp = make_method("wgan-gp", WGANGPConfig, "rltool.gan.learner:WGANGP")
sngan = make_method("sngan", SNGANConfig, "rltool.gan.learner:SNGAN")
cgan = make_method("cgan", ConditionalGANConfig, "rltool.gan.conditional:ConditionalGAN")
pix2pix = make_method("pix2pix", Pix2PixConfig, "rltool.gan.pix2pix:Pix2Pix", "SOURCE:TARGET", "class_kept")
cyclegan = make_method("cyclegan", CycleGANConfig, "rltool.gan.cyclegan:CycleGAN", "SOURCE:TARGET", "class_kept")

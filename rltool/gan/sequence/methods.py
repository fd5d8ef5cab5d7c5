"""The sequence GAN as a method of `rltool train`."""

from rltool.gan.sequence.config import SeqGANConfig, SeqGANRunConfig
from rltool.gan.sequence.presets import PRESETS
from rltool.training.methods import Method

seqgan = Method(
    SeqGANConfig,
    "rltool.gan.sequence.learner:SeqGAN",
    data="oracle|grammar|FILE.txt",
    presets=PRESETS,
    run=SeqGANRunConfig,
    training_metric="train/nll",
    evaluation_metric="nll_test",
)

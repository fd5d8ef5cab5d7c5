"""Typed options of generative adversarial networks; free of torch."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from rltool.networks.config import Activation, BackboneConfig
from rltool.training.config import RunConfig

Loss = Literal[
    "minimax", "non-saturating", "least-squares", "hinge", "wasserstein", "relativistic", "relativistic-average"
]
Penalty = Literal["none", "gradient", "r1", "dragan"]
Augmentation = Literal["shift", "flip", "cutout", "color"]


class GANConfig(BackboneConfig):
    """Options of `gan`, and of what varies it; those of the backbone are the discriminator's."""

    hidden_sizes: Annotated[tuple[PositiveInt, ...], Field(max_length=32)] = Field(
        (128, 128), description="Widths of the discriminator's hidden layers (mlp)."
    )
    activation: Activation = Field("relu", description="Nonlinearity of the hidden layers (mlp).")
    init: Literal["orthogonal", "default"] = Field(
        "default", description="Weight initialization: orthogonal, or PyTorch's default."
    )
    noise_size: PositiveInt = Field(16, description="Numbers that a sample is made from.")
    generator_sizes: Annotated[tuple[PositiveInt, ...], Field(max_length=32)] = Field(
        (), description="Widths of the generator's hidden layers (mlp); by default the discriminator's, mirrored."
    )
    generator_batch_norm: bool = Field(False, description="Batch norm in the generator.")
    loss: Loss = Field("non-saturating", description="What the two networks are trained by.")
    penalty: Penalty = Field(
        "none",
        description="What keeps the discriminator smooth: its gradient's norm is drawn to 1 between real and fake "
        "(gradient), to 0 at real examples (r1), or to 1 around them (dragan).",
    )
    penalty_weight: NonNegativeFloat = Field(10.0, description="Weight of the penalty.")
    weight_clip: NonNegativeFloat = Field(
        0.0, description="The discriminator's weights are kept within this of 0, after each of its steps; 0: free."
    )
    discriminator_steps: PositiveInt = Field(1, description="Steps of the discriminator for each of the generator.")
    optimizer: Literal["adam", "rmsprop"] = Field("adam", description="Gradient descent of both.")
    learning_rate: PositiveFloat = Field(2e-4, description="Step size of the discriminator.")
    generator_learning_rate: PositiveFloat | None = Field(
        None, description="Step size of the generator; by default the discriminator's."
    )
    beta1: float = Field(0.5, ge=0, lt=1, description="(adam) Decay of the running mean of gradients.")
    beta2: float = Field(0.999, gt=0, lt=1, description="(adam) Decay of the running mean of their squares.")
    schedule: Literal["constant", "linear", "cosine"] = Field(
        "constant", description="How both step sizes fall to 0 over the training."
    )
    batch_size: PositiveInt = Field(64, description="Real examples, and as many fakes, in a minibatch.")
    ema: float = Field(
        0.0, ge=0, lt=1, description="Samples are made by a running mean of the generator's weights, of this decay."
    )
    pack: PositiveInt = Field(
        1, description="Examples that the discriminator judges together, so that it sees whether they differ (PacGAN)."
    )
    unrolled_steps: NonNegativeInt = Field(
        0, description="Steps of the discriminator that the generator's gradient looks ahead (Unrolled GAN)."
    )
    feature_matching: NonNegativeFloat = Field(
        0.0, description="Weight of the distance between the mean features of real and fake, in the generator's loss."
    )
    augment: tuple[Augmentation, ...] = Field(
        (),
        description="(Images) Random changes of all that the discriminator sees, which gradients pass (DiffAugment): "
        "shift, flip, cutout, color.",
    )

    @property
    def mixes_examples(self) -> bool:
        """Whether what the discriminator says of an example depends on the others of the minibatch."""
        return self.batch_norm or (self.backbone == "resnet" and self.resnet_norm == "batch")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.penalty != "none" and self.mixes_examples:
            raise ValueError(
                f"the {self.penalty} penalty is about single examples, which batch norm mixes; take layer norm "
                "(--layer-norm, or --resnet-norm layer) or --penalty none"
            )
        if self.unrolled_steps and self.optimizer != "adam":
            raise ValueError("unrolled_steps looks ahead along the steps of adam; take --optimizer adam")
        if self.batch_size % self.pack:
            raise ValueError(f"batch_size must be a multiple of pack, which is {self.pack}")
        if self.batch_size == self.pack and self.mixes_examples:
            raise ValueError("batch norm needs more than one group of examples in a minibatch")
        return self


class WGANConfig(GANConfig):
    """Options of `wgan`: Arjovsky et al., "Wasserstein generative adversarial networks", ICML 2017."""

    loss: Loss = Field("wasserstein", description="What the two networks are trained by.")
    weight_clip: NonNegativeFloat = Field(
        0.01, description="The critic's weights are kept within this of 0, after each of its steps; 0: free."
    )
    discriminator_steps: PositiveInt = Field(5, description="Steps of the critic for each of the generator.")
    optimizer: Literal["adam", "rmsprop"] = Field("rmsprop", description="Gradient descent of both.")
    learning_rate: PositiveFloat = Field(5e-5, description="Step size of the critic.")


class WGANGPConfig(GANConfig):
    """Options of `wgan-gp`: Gulrajani et al., "Improved training of Wasserstein GANs", NIPS 2017."""

    loss: Loss = Field("wasserstein", description="What the two networks are trained by.")
    penalty: Penalty = Field(
        "gradient",
        description="What keeps the critic smooth: its gradient's norm is drawn to 1 between real and fake "
        "(gradient), to 0 at real examples (r1), or to 1 around them (dragan).",
    )
    discriminator_steps: PositiveInt = Field(5, description="Steps of the critic for each of the generator.")
    learning_rate: PositiveFloat = Field(1e-4, description="Step size of the critic.")
    beta1: float = Field(0.0, ge=0, lt=1, description="(adam) Decay of the running mean of gradients.")
    beta2: float = Field(0.9, gt=0, lt=1, description="(adam) Decay of the running mean of their squares.")


class SNGANConfig(GANConfig):
    """Options of `sngan`: Miyato et al., "Spectral normalization for generative adversarial networks", ICLR 2018."""

    loss: Loss = Field("hinge", description="What the two networks are trained by.")
    spectral_norm: bool = Field(
        True, description="Divide the weights of the discriminator's layers by their largest singular value."
    )
    beta1: float = Field(0.0, ge=0, lt=1, description="(adam) Decay of the running mean of gradients.")
    beta2: float = Field(0.9, gt=0, lt=1, description="(adam) Decay of the running mean of their squares.")


class LSGANConfig(GANConfig):
    """Options of `lsgan`: Mao et al., "Least squares generative adversarial networks", ICCV 2017."""

    loss: Loss = Field("least-squares", description="What the two networks are trained by.")


class GANRunConfig(RunConfig):
    """A run whose timesteps are steps of the generator."""

    total_timesteps: PositiveInt = Field(10_000, description="Budget: steps of the generator.")
    log_freq: PositiveInt = Field(100, description="Steps between two rows of metrics.csv.")
    eval_freq: NonNegativeInt = Field(1_000, description="Steps between two evaluations; 0: never.")
    eval_episodes: PositiveInt = Field(2_500, description="Samples that an evaluation draws.")
    save_freq: NonNegativeInt = Field(2_000, description="Steps between two checkpoints; 0: only at the end.")

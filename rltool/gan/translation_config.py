"""Typed options of translation from one domain of images to another; free of torch."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator

from rltool.gan.conditional_config import refuse
from rltool.gan.config import GANConfig, Loss, Penalty


class TranslationConfig(GANConfig):
    """Options that `pix2pix` and `cyclegan` share; those of the backbone are the discriminators'."""

    translator_channels: Annotated[tuple[PositiveInt, ...], Field(min_length=1, max_length=6)] = Field(
        (32, 64), description="Channels of the translator: of its first convolution, then of each stage that halves."
    )
    translator_blocks: NonNegativeInt = Field(2, description="Residual blocks in the translator's middle.")
    translator_norm: Literal["layer", "batch", "none"] = Field("layer", description="Normalization in the translator.")
    skip_connections: bool = Field(
        True, description="The translator's decoder sees what its encoder saw at the same size."
    )


class Pix2PixConfig(TranslationConfig):
    """Options of `pix2pix`: Isola et al., "Image-to-image translation with conditional adversarial networks", 2017."""

    adversarial_weight: NonNegativeFloat = Field(
        1.0, description="Weight of the discriminator's judgment; 0: supervised learning alone."
    )
    l1_weight: NonNegativeFloat = Field(
        100.0, description="Weight of the absolute difference to the paired image; 0: the discriminator alone."
    )

    @model_validator(mode="after")
    def _can_be_paired(self) -> Self:
        refuse(self, "pix2pix", unrolled_steps=0, pack=1, feature_matching=0, augment=())
        if not self.adversarial_weight and not self.l1_weight:
            raise ValueError("adversarial_weight and l1_weight are both 0, which leaves nothing to learn by")
        return self


class CycleGANConfig(TranslationConfig):
    """Options of `cyclegan`: Zhu et al., "Unpaired image-to-image translation", ICCV 2017."""

    loss: Loss = Field("least-squares", description="What translators and discriminators are trained by.")
    penalty: Penalty = Field(
        "none",
        description="What keeps the discriminators smooth: their gradients' norm is drawn to 1 between real and fake "
        "(gradient), to 0 at real examples (r1), or to 1 around them (dragan).",
    )
    cycle_weight: NonNegativeFloat = Field(
        10.0, description="Weight of the absolute difference between an image and its translation there and back."
    )
    identity_weight: NonNegativeFloat = Field(
        0.0, description="Weight of what a translator changes in images that are of its target already."
    )
    pool_size: NonNegativeInt = Field(
        0, description="Earlier translations that the discriminators are shown now and then; 0: none."
    )

    @model_validator(mode="after")
    def _can_be_unpaired(self) -> Self:
        refuse(self, "cyclegan", unrolled_steps=0, pack=1, feature_matching=0)
        return self

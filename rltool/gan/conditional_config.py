"""Typed options of conditional GANs; free of torch."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, PositiveInt, model_validator

from rltool.gan.config import GANConfig


def refuse(config: GANConfig, method: str, **neutral: object) -> None:
    """See that options which a method has no use for have their neutral values.

    Raises:
        ValueError: One has not.
    """
    for name, value in neutral.items():
        if getattr(config, name) != value:
            raise ValueError(f"{method} has no use for {name.replace('_', '-')}; leave it out")


class ConditionalGANConfig(GANConfig):
    """Options of `cgan`: Mirza & Osindero, "Conditional generative adversarial nets", 2014."""

    condition: Literal["label", "words"] = Field(
        "label",
        description="What is asked for: a class (label), or the words of its name (words), of which new combinations "
        "can be asked for, too.",
    )
    conditioning: Literal["projection", "concatenation"] = Field(
        "projection",
        description="How the discriminator reads a condition: as a direction that features are projected on (Miyato & "
        "Koyama), or as more features in front of a hidden layer.",
    )
    condition_backbone: Literal["mlp", "lstm", "gru", "transformer"] = Field(
        "mlp", description="Network that reads the condition's tokens; mlp: an embedding of each."
    )
    condition_size: PositiveInt = Field(32, description="Numbers that stand for a condition.")
    mismatched: bool = Field(
        True, description="Real examples with a wrong condition are shown as fakes, too (Reed et al., GAN-CLS)."
    )

    @model_validator(mode="after")
    def _can_be_conditioned(self) -> Self:
        refuse(self, "cgan", unrolled_steps=0, pack=1)
        return self

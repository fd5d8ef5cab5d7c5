"""Options of curiosity and of noise in the weights; free of torch."""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, Field, NonNegativeFloat, PositiveFloat

from rltool.agents.extensions import ExtensionKind


class RNDConfig(BaseModel):
    """Options of random network distillation."""

    panel: ClassVar[str] = "Exploration"

    rnd: bool = Field(
        False, description="Curiosity by random network distillation: seldom seen observations are rewarded."
    )
    rnd_coef: NonNegativeFloat = Field(1.0, description="Weight of the reward for seldom seen observations.")
    rnd_learning_rate: PositiveFloat = Field(1e-3, description="Step size of the network that learns what was seen.")


class ICMConfig(BaseModel):
    """Options of the intrinsic curiosity module."""

    panel: ClassVar[str] = "Exploration"

    icm: bool = Field(
        False,
        description="Curiosity by an intrinsic curiosity module: steps whose outcome was not foreseen are rewarded.",
    )
    icm_coef: NonNegativeFloat = Field(1.0, description="Weight of the reward for outcomes that were not foreseen.")
    icm_beta: float = Field(
        0.2,
        ge=0,
        le=1,
        description="Weight of the loss of foreseeing outcomes, against that of recognizing actions by them.",
    )
    icm_learning_rate: PositiveFloat = Field(1e-3, description="Step size of the curiosity module.")


class ParameterNoiseConfig(BaseModel):
    """Options of parameter noise."""

    panel: ClassVar[str] = "Exploration"

    parameter_noise: NonNegativeFloat = Field(
        0.0,
        description="Standard deviation of noise that is added to the policy's weights for a rollout and its update, "
        "as it is at first (0: no noise).",
    )
    parameter_noise_target: NonNegativeFloat = Field(
        0.05,
        description="The noise is adapted until the policies with and without it are this far apart (KL divergence, in "
        "nats; 0: it stays as it is).",
    )


class NoNewOptions(BaseModel):
    """An extension whose only option is one of the backbone's."""


rnd = ExtensionKind(RNDConfig, "rltool.agents.curiosity:RND")
icm = ExtensionKind(ICMConfig, "rltool.agents.curiosity:ICM")
parameter_noise = ExtensionKind(ParameterNoiseConfig, "rltool.agents.parameter_noise:ParameterNoise")
noisy = ExtensionKind(NoNewOptions, "rltool.agents.parameter_noise:NoisyLayers")

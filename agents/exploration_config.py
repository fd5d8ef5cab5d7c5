"""Options of curiosity and of noise in the weights; free of torch."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field, NonNegativeFloat, PositiveFloat

from rltool.agents.extensions import ExtensionKind

PANEL: dict[str, Any] = {"panel": "Exploration"}


class RNDConfig(BaseModel):
    """Options of random network distillation."""

    rnd: bool = Field(
        False,
        description="Curiosity by random network distillation: seldom seen observations are rewarded.",
        json_schema_extra=PANEL,
    )
    rnd_coef: NonNegativeFloat = Field(
        1.0, description="Weight of the reward for seldom seen observations.", json_schema_extra=PANEL
    )
    rnd_learning_rate: PositiveFloat = Field(
        1e-3, description="Step size of the network that learns what was seen.", json_schema_extra=PANEL
    )


class ICMConfig(BaseModel):
    """Options of the intrinsic curiosity module."""

    icm: bool = Field(
        False,
        description="Curiosity by an intrinsic curiosity module: steps whose outcome was not foreseen are rewarded.",
        json_schema_extra=PANEL,
    )
    icm_coef: NonNegativeFloat = Field(
        1.0, description="Weight of the reward for outcomes that were not foreseen.", json_schema_extra=PANEL
    )
    icm_beta: float = Field(
        0.2,
        ge=0,
        le=1,
        description="Weight of the loss of foreseeing outcomes, against that of recognizing actions by them.",
        json_schema_extra=PANEL,
    )
    icm_learning_rate: PositiveFloat = Field(
        1e-3, description="Step size of the curiosity module.", json_schema_extra=PANEL
    )


class ParameterNoiseConfig(BaseModel):
    """Options of parameter noise."""

    parameter_noise: NonNegativeFloat = Field(
        0.0,
        description="Standard deviation of noise that is added to the policy's weights for a rollout and its update, "
        "as it is at first (0: no noise).",
        json_schema_extra=PANEL,
    )
    parameter_noise_target: NonNegativeFloat = Field(
        0.05,
        description="The noise is adapted until the policies with and without it are this far apart (KL divergence, in "
        "nats; 0: it stays as it is).",
        json_schema_extra=PANEL,
    )


class NoNewOptions(BaseModel):
    """An extension whose only option is one of the backbone's."""


rnd = ExtensionKind(RNDConfig, "rltool.agents.curiosity:RND")
icm = ExtensionKind(ICMConfig, "rltool.agents.curiosity:ICM")
parameter_noise = ExtensionKind(ParameterNoiseConfig, "rltool.agents.parameter_noise:ParameterNoise")
noisy = ExtensionKind(NoNewOptions, "rltool.agents.parameter_noise:NoisyLayers")

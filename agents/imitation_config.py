"""Options of learning from demonstrations by a reward model; free of torch."""

from __future__ import annotations

from copy import copy
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, Field, NonNegativeFloat, PositiveFloat, PositiveInt, create_model, model_validator

from rltool.agents.config import PPOConfig
from rltool.agents.extensions import ExtensionKind, with_extensions

Objective = Literal["gail", "airl", "maxent", "margin"]


class DemosConfig(BaseModel):
    """Options of a reward model that is learned from demonstrations."""

    panel: ClassVar[str] = "Demonstrations"

    demos: str | None = Field(
        None,
        description="Demonstrations (a dataset's name or FILE.npz); what tells them from the policy's own steps "
        "replaces the environment's rewards.",
    )
    demos_objective: Objective = Field(
        "gail",
        description="What the reward model learns: gail (whose step is it), airl (the same, as a reward of states and "
        "a potential), maxent (a mean above the policy's), margin (each step beyond a margin).",
    )
    demos_episodes: PositiveInt | None = Field(None, description="Use only the first episodes.")
    demos_reads: Literal["auto", "state", "state-action"] = Field(
        "auto", description="What the reward depends on (auto: state for airl, else state-action)."
    )
    demos_hidden_sizes: Annotated[tuple[PositiveInt, ...], Field(max_length=32)] = Field(
        (64, 64), description="Widths of the reward model's hidden layers."
    )
    demos_learning_rate: PositiveFloat = Field(1e-3, description="Step size of the reward model.")
    demos_steps: PositiveInt = Field(10, description="Minibatches that the reward model learns from per rollout.")
    demos_batch_size: PositiveInt = Field(256, description="Steps of each side in such a minibatch.")
    demos_gradient_penalty: NonNegativeFloat = Field(
        0.0, description="Weight of (|gradient| - 1)^2 between demonstrations and the policy's steps."
    )
    demos_spectral_norm: bool = Field(False, description="Spectral norm in the reward model.")
    demos_weight_decay: NonNegativeFloat = Field(0.0, description="Weight of the mean square of the logits.")
    demos_absorbing: bool = Field(
        True,
        description="Where an episode terminates, it goes on in an absorbing state that is rated, too; without it, a "
        "reward that is never negative teaches to survive, whatever the demonstrations show.",
    )
    demos_control: Literal["none", "survive", "finish", "shuffled", "random"] = Field(
        "none",
        description="Spoil the demonstrations, to see what they are worth: a reward of 1 (survive) or -1 (finish) for "
        "every step instead, observations and actions out of order, or a random agent's episodes.",
    )


demos = ExtensionKind(DemosConfig, "rltool.agents.adversarial:DemonstrationReward")


class RewardConfig(BaseModel):
    """Options of a reward that another run has recovered."""

    panel: ClassVar[str] = "Demonstrations"

    reward: str | None = Field(
        None, description="Run that recovered a reward (gail, airl, maxent-irl): it replaces the environment's."
    )


reward = ExtensionKind(RewardConfig, "rltool.agents.adversarial:RecoveredReward")


class _Imitation(BaseModel):
    """What methods that learn from demonstrations have beside the options of their parts."""

    panel: ClassVar[str] = "Demonstrations"

    controls: bool = Field(
        True, description="Afterwards, train with a constant reward and with spoiled demonstrations, and compare."
    )

    @model_validator(mode="after")
    def _has_demonstrations(self) -> _Imitation:
        if getattr(self, "demos", None) is None:
            raise ValueError("there are no demonstrations to learn from; add --demos NAME or --demos FILE.npz")
        return self


def imitation_config(name: str, doc: str, **defaults: Any) -> Any:
    """PPO's options and those of all extensions, with other defaults."""
    base = with_extensions(PPOConfig)
    fields: dict[str, Any] = {}
    for option, default in defaults.items():
        field = copy(base.model_fields[option])
        field.default = default
        fields[option] = (field.annotation, field)
    return create_model(name, __base__=(_Imitation, base), __doc__=doc, **fields)


# Values chosen once for CartPole, Acrobot, MountainCar, Pendulum and LunarLander together.
COMMON: dict[str, Any] = {
    "num_envs": 16,
    "num_steps": 128,
    "batch_size": 256,
    "num_epochs": 10,
    "learning_rate": 2e-3,
    "learning_rate_schedule": "linear",
    "activation": "relu",
    "normalize_observations": True,
    "normalize_returns": True,
}

GAILConfig = imitation_config("GAILConfig", "Options of GAIL.", **COMMON)
AIRLConfig = imitation_config("AIRLConfig", "Options of AIRL.", demos_objective="airl", **COMMON)

"""Options of exact inverse RL; free of torch."""

from __future__ import annotations

from typing import Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from rltool.training.config import RunConfig


class MaxEntIRLConfig(BaseModel):
    """Options of maximum-entropy and maximum-margin inverse RL."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    demos: str | None = Field(None, description="Demonstrations (required): a file .npz, or a Minari dataset's name.")
    demos_episodes: PositiveInt | None = Field(None, description="Use only the first episodes.")
    objective: Literal["maxent", "margin"] = Field(
        "maxent",
        description="Which reward: one for which the demonstrations are likeliest (maxent), or for which the "
        "demonstrator is better than every policy found so far, by a margin (margin).",
    )
    features: Literal["state", "state-action"] = Field(
        "state", description="What is rewarded: arriving in a state, or an action in a state."
    )
    gamma: float = Field(0.99, ge=0, lt=1, description="Discount factor of future rewards.")
    l2: PositiveFloat = Field(
        0.1, description="Weight of half the squared rewards, against the log-likelihood of all demonstrations."
    )
    tolerance: NonNegativeFloat = Field(
        1e-3, description="Training ends when at most this part of all visits is not where the demonstrations' are."
    )

    @model_validator(mode="after")
    def _has_demonstrations(self) -> MaxEntIRLConfig:
        if self.demos is None:
            raise ValueError("there are no demonstrations to learn from; add --demos NAME or --demos FILE.npz")
        return self


class IterationsConfig(RunConfig):
    """A run whose timesteps are iterations: in each the reward is changed once, and no environment is stepped."""

    total_timesteps: PositiveInt = Field(
        1_000, description="Iterations at most: a timestep is one, and training ends when visits match."
    )
    log_freq: PositiveInt = Field(1, description="Iterations between two rows of metrics.csv.")
    eval_freq: NonNegativeInt = Field(20, description="Iterations between two evaluations; 0: never.")
    save_freq: NonNegativeInt = Field(100, description="Iterations between two checkpoints; 0: only at the end.")

    @model_validator(mode="after")
    def _refuse_idle_options(self) -> IterationsConfig:
        for name in ("init_backbone", "freeze_backbone"):
            if getattr(self, name):
                raise ValueError(f"the policy is a table and has no backbone; leave {name.replace('_', '-')} out")
        for name in ("shaping", "potential"):
            if getattr(self, name):
                raise ValueError(f"the environment's rewards are not looked at; leave {name} out")
        return self

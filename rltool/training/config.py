"""Typed options of a run, the same for every method."""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, field_validator


class RunConfig(BaseModel):
    """How long, where, from what, and how closely watched."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    total_timesteps: PositiveInt = Field(100_000, description="Budget, summed over environments.")
    seed: NonNegativeInt = Field(0, description="Seeds weights, environments and exploration.")
    device: str = Field("cpu", description="Where tensors live: cpu or cuda.")
    threads: PositiveInt = Field(1, description="Threads of PyTorch and NumPy; small networks are fastest with one.")
    log_freq: PositiveInt = Field(2_000, description="Timesteps between two rows of metrics.csv.")
    eval_freq: NonNegativeInt = Field(20_000, description="Timesteps between two evaluations; 0: never.")
    eval_episodes: PositiveInt = Field(10, description="Episodes of an evaluation.")
    save_freq: NonNegativeInt = Field(50_000, description="Timesteps between two checkpoints; 0: only at the end.")
    keep_checkpoints: PositiveInt = Field(2, description="Checkpoints kept; older ones are removed.")
    run_dir: str = Field("runs", description="Folder that runs are put in.")
    name: str | None = Field(None, description="Name of the run's folder; by default <method>-<data>-<number>.")
    preset: str = Field(
        "auto", description="Tuned options to start from: auto (those for this environment), none, or an environment."
    )
    track: Literal["tensorboard"] | None = Field(None, description="Also write metrics for tensorboard.")
    shaping: str | None = Field(
        None,
        description="Function module:function that replaces rewards while training; it gets the observation, the "
        "action, the reward, the next observation, and whether the episode terminated.",
    )
    potential: str | None = Field(
        None,
        description="Function module:function from an observation to a number; gamma times the next one's minus this "
        "one's is added to rewards while training, which leaves the best policy the best.",
    )
    init_backbone: str | None = Field(None, description="Run whose backbone to start from.")
    freeze_backbone: NonNegativeInt = Field(
        0, description="Timesteps during which the backbone stays as it is, and the rest is trained alone."
    )
    init_policy: str | None = Field(
        None,
        description="Run whose policy to start from; the critic is fitted first, on the demonstrations of that run.",
    )
    env_kwargs: dict[str, Any] = Field({}, description="Arguments of the environment's constructor.")

    @field_validator("env_kwargs")
    @classmethod
    def _can_be_kept(cls, value: dict[str, Any]) -> dict[str, Any]:
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError):
            raise ValueError("a run keeps them as JSON, which has text, finite numbers, lists and tables") from None
        return value

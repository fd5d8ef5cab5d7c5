"""Typed options of the agents. Field descriptions are the command line's help and the docs; free of torch.

Defaults are those of Stable-Baselines3. Values tuned for an environment are in `presets.py`.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from rltool.networks.config import BackboneConfig

Schedule = Literal["constant", "linear"]


class PolicyConfig(BackboneConfig):
    """What a policy is made of: a backbone (shared with the critic or not) and an action head."""

    shortcut: bool = Field(
        True, description="Features of rnn, lstm and gru over time hold what was seen last beside the memory of it."
    )
    shared: bool = Field(False, description="One backbone for policy and value, instead of one each.")
    normalize_observations: bool = Field(
        False, description="Shift and scale observations by their running mean and deviation, kept inside the policy."
    )
    action_std: Literal["independent", "dependent", "gsde"] = Field(
        "independent",
        description="Standard deviation of continuous actions: a parameter, a function of the observation, or "
        "generalized state-dependent exploration (gSDE).",
    )
    log_std_init: float = Field(0.0, description="Initial logarithm of the standard deviation of continuous actions.")
    sde_sample_freq: NonNegativeInt = Field(
        0, description="With gSDE, timesteps between two draws of the noise matrix (0: once a rollout)."
    )
    squash: bool = Field(
        False,
        description="(Box actions) Send actions through tanh onto the bounds, instead of clipping them.",
    )


class OnPolicyConfig(PolicyConfig):
    """What REINFORCE, A2C and PPO have in common."""

    num_envs: PositiveInt = Field(1, description="Environments stepped together.")
    num_steps: PositiveInt = Field(5, description="Timesteps per environment and rollout.")
    sequence_length: PositiveInt = Field(
        16, description="With rnn, lstm, gru or transformer, timesteps of a sequence that gradients flow through."
    )
    learning_rate: PositiveFloat = Field(7e-4, description="Step size of the optimizer.")
    learning_rate_schedule: Schedule = Field(
        "constant", description="Learning rate over the run: constant, or falling linearly to zero."
    )
    gamma: float = Field(0.99, ge=0, le=1, description="Discount factor of future rewards.")
    ent_coef: NonNegativeFloat = Field(0.0, description="Weight of the entropy bonus in the loss.")
    max_grad_norm: PositiveFloat = Field(0.5, description="Gradients are scaled down to this norm.")
    optimizer: Literal["adam", "rmsprop"] = Field("adam", description="Optimizer (epsilon is 1e-5).")
    normalize_returns: bool = Field(
        False, description="Divide rewards by the running standard deviation of the discounted return."
    )
    compile: bool = Field(False, description="Compile the backbones (torch.compile; pays for large ones alone).")


class REINFORCEConfig(OnPolicyConfig):
    """Options of REINFORCE."""

    num_envs: PositiveInt = Field(8, description="Environments stepped together.")
    num_steps: PositiveInt = Field(
        1, description="Timesteps after which an environment begins no new episode; 1: one episode each per update."
    )
    learning_rate: PositiveFloat = Field(1e-3, description="Step size of the optimizer.")
    credit: Literal["immediate", "reward_to_go", "discounted", "baseline", "value_baseline"] = Field(
        "baseline",
        description="What an action is weighted by: its reward, the rewards to go, those discounted, those minus "
        "their mean, or those minus a learned value.",
    )
    vf_coef: NonNegativeFloat = Field(0.5, description="Weight of the value loss (credit value_baseline).")
    normalize_advantages: bool = Field(False, description="Scale the weights of an update to deviation 1.")


class A2CConfig(OnPolicyConfig):
    """Options of A2C."""

    advantage: Literal["td", "gae", "mc"] = Field(
        "gae",
        description="Advantage: one-step temporal difference, generalized (gae-lambda), or the rollout's whole return.",
    )
    gae_lambda: float = Field(1.0, ge=0, le=1, description="Bias against variance of the generalized advantage.")
    vf_coef: NonNegativeFloat = Field(0.5, description="Weight of the value loss.")
    optimizer: Literal["adam", "rmsprop"] = Field("rmsprop", description="Optimizer (epsilon is 1e-5).")
    normalize_advantages: bool = Field(False, description="Shift and scale each rollout's advantages to (0, 1).")


class PPOConfig(OnPolicyConfig):
    """Options of PPO."""

    num_steps: PositiveInt = Field(2048, description="Timesteps per environment and rollout.")
    learning_rate: PositiveFloat = Field(3e-4, description="Step size of the optimizer.")
    batch_size: PositiveInt = Field(64, description="Timesteps in a minibatch.")
    num_epochs: PositiveInt = Field(10, description="Passes over each rollout.")
    gae_lambda: float = Field(0.95, ge=0, le=1, description="Bias against variance of the generalized advantage.")
    clip_range: PositiveFloat = Field(0.2, description="The probability ratio counts only within 1 - and 1 + this.")
    clip_range_schedule: Schedule = Field(
        "constant", description="Clip range over the run: constant, or falling linearly to zero."
    )
    clip_range_vf: PositiveFloat | None = Field(
        None, description="Values may move this far from the old ones in an update (none: freely)."
    )
    target_kl: PositiveFloat | None = Field(
        None,
        description="An update ends early when the approximate KL divergence exceeds 1.5 times this (none: never).",
    )
    vf_coef: NonNegativeFloat = Field(0.5, description="Weight of the value loss.")
    normalize_advantages: bool = Field(True, description="Shift and scale each minibatch's advantages to (0, 1).")

    @model_validator(mode="after")
    def _minibatch_fits(self) -> PPOConfig:
        if self.batch_size > self.num_envs * self.num_steps:
            raise ValueError(
                f"a minibatch of {self.batch_size} is larger than the rollout of {self.num_envs} environments x "
                f"{self.num_steps} steps = {self.num_envs * self.num_steps} timesteps; "
                "lower batch-size or raise num-steps or num-envs"
            )
        return self

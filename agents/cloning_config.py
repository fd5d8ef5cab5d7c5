"""Typed options of behavior cloning and DAgger; free of torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from rltool.agents.config import PolicyConfig
from rltool.networks.config import Activation
from rltool.training.config import RunConfig


class BCConfig(PolicyConfig):
    """Options of behavior cloning."""

    demos: str | None = Field(None, description="Demonstrations: a file .npz, or the name of a Minari dataset.")
    demos_episodes: PositiveInt | None = Field(None, description="Use only the first episodes.")
    hidden_sizes: Annotated[tuple[PositiveInt, ...], Field(max_length=32)] = Field(
        (128, 128), description="Widths of the hidden layers of the mlp, and of combined."
    )
    activation: Activation = Field("relu", description="Nonlinearity of the mlp's hidden layers.")
    normalize_observations: bool = Field(
        True, description="Shift and scale observations by the mean and deviation of those demonstrated."
    )
    learning_rate: PositiveFloat = Field(1e-3, description="Step size of the optimizer (Adam).")
    batch_size: PositiveInt = Field(64, description="Timesteps in a minibatch (with a memory: about so many).")
    max_grad_norm: PositiveFloat = Field(0.5, description="Gradients are scaled down to this norm.")
    ent_coef: NonNegativeFloat = Field(0.0, description="Weight of the entropy bonus in the loss.")
    weight_decay: NonNegativeFloat = Field(
        0.0, description="Weight of half the squared weights, against the log-likelihood of all demonstrations."
    )
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="(Choices) Share of the target that goes to all actions alike."
    )
    class_balance: bool = Field(
        False, description="(Choices) Weigh timesteps so that every action that was demonstrated counts the same."
    )
    min_std: PositiveFloat = Field(
        0.1,
        description="(Box actions) The standard deviation does not fall below this part of half the Box's width.",
    )
    validation_fraction: float = Field(
        0.1, ge=0, lt=1, description="Share of the episodes that are not learned from, but tell when to stop."
    )
    patience: NonNegativeInt = Field(
        100, description="Passes without a better validation loss after which training ends (0: it never does)."
    )
    then: Literal["ppo", "a2c"] | None = Field(
        None,
        description="Afterwards, go on with this method from the clone, in a second run NAME-METHOD: with the options "
        "tuned for the environment, and this network.",
    )
    then_timesteps: PositiveInt | None = Field(
        None, description="Budget of the second run (none: as much as its method has)."
    )
    then_learning_rate: PositiveFloat | None = Field(
        None, description="Learning rate of the second run (none: a tenth of the tuned one, not to lose the clone)."
    )

    @model_validator(mode="after")
    def _something_follows(self) -> BCConfig:
        for name in ("then_timesteps", "then_learning_rate"):
            if self.then is None and getattr(self, name) is not None:
                raise ValueError(f"{name.replace('_', '-')} does nothing without --then")
        return self


class DAggerConfig(BCConfig):
    """Options of DAgger."""

    batch_size: PositiveInt = Field(128, description="Timesteps in a minibatch (with a memory: about so many).")
    expert: str | None = Field(
        None, description="Who is asked what to do: a run, a .safetensors file, or a Stable-Baselines3 .zip."
    )
    num_envs: PositiveInt = Field(4, description="Environments stepped together.")
    num_steps: PositiveInt = Field(2_000, description="Least timesteps of a round, which plays whole episodes.")
    num_epochs: PositiveInt = Field(20, description="Most passes over all data so far that a round ends with.")
    beta: Literal["first", "linear"] = Field(
        "first",
        description="How often the expert acts: in the first round alone (without demonstrations), or less and less.",
    )
    beta_rounds: PositiveInt = Field(5, description="(beta linear) Rounds until the expert acts no more.")


class CloningRunConfig(RunConfig):
    """A run whose timesteps are timesteps of demonstrations."""

    total_timesteps: PositiveInt = Field(
        300_000, description="Budget: timesteps of demonstrations that are learned from, again and again."
    )
    log_freq: PositiveInt = Field(5_000, description="Timesteps between two rows of metrics.csv.")
    eval_freq: NonNegativeInt = Field(50_000, description="Timesteps between two evaluations; 0: never.")


class DAggerRunConfig(RunConfig):
    """A run whose timesteps an expert is asked about."""

    total_timesteps: PositiveInt = Field(
        20_000, description="Budget: timesteps played, whose last episodes are played to the end."
    )
    eval_freq: NonNegativeInt = Field(5_000, description="Timesteps between two evaluations; 0: never.")
    save_freq: NonNegativeInt = Field(5_000, description="Timesteps between two checkpoints; 0: only at the end.")

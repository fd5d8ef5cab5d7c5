"""Typed options of the sequence GAN; free of torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from rltool.networks.config import BackboneConfig
from rltool.training.config import RunConfig

Credit = Literal["rollouts", "prefixes", "sequence"]
Control = Literal["none", "mle", "constant"]


class SeqGANConfig(BackboneConfig):
    """Options of the sequence GAN; those of the backbone are the generator's.

    Yu et al., "SeqGAN: Sequence generative adversarial nets with policy gradient", AAAI 2017.
    """

    backbone: str = Field("lstm", description="Network that reads what was generated so far (lstm, gru, transformer).")
    model_size: PositiveInt = Field(32, description="Width of rnn, lstm, gru and transformer.")
    window: PositiveInt = Field(32, description="Tokens that the transformer looks back on, this one included.")
    embedding_size: PositiveInt = Field(32, description="Numbers that stand for a token.")
    tokens: Literal["auto", "words", "characters"] = Field(
        "auto", description="(Text) What a token is; auto: words where there are more than 2,000 of them."
    )
    max_length: PositiveInt | None = Field(
        None, description="(Text) Tokens at which a longer line is divided; by default 20 words or 60 characters."
    )

    pretraining: NonNegativeInt = Field(
        100_000, description="Sequences of the data that are learned by maximum likelihood first; part of the budget."
    )
    pretraining_learning_rate: PositiveFloat = Field(5e-3, description="Step size meanwhile.")
    scheduled_sampling: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Share of tokens that the generator reads from itself instead of the data at the end of the "
        "pretraining; it grows from 0 (scheduled sampling).",
    )
    batch_size: PositiveInt = Field(64, description="Sequences in a minibatch, and of a round.")
    learning_rate: PositiveFloat = Field(2e-3, description="Step size of the generator's policy gradient.")
    max_grad_norm: PositiveFloat = Field(5.0, description="Gradients of the generator are scaled down to this norm.")

    credit: Credit = Field(
        "prefixes",
        description="What a token is rewarded by: the discriminator's mean verdict over completions (rollouts), what "
        "it changes in its verdict so far (prefixes), or the verdict on the whole (sequence).",
    )
    rollouts: PositiveInt = Field(4, description="(credit rollouts) Completions of each prefix.")
    reward: Literal["logit", "probability", "log"] = Field(
        "logit", description="The verdict: the discriminator's logit, its probability of real, or the logarithm of it."
    )
    baseline: Literal["batch", "value", "none"] = Field(
        "batch", description="What rewards are compared with: the batch's mean at each place, a learned value, nothing."
    )
    objective: Literal["ppo", "reinforce"] = Field("reinforce", description="Policy gradient.")
    all_tokens: bool = Field(
        True,
        description="(credit prefixes) A token's own reward counts as the mean over all tokens that could stand there; "
        "what is left to the one that was drawn are the rewards after it.",
    )
    num_epochs: PositiveInt = Field(2, description="(ppo) Steps on the sequences of a round.")
    clip_range: PositiveFloat = Field(0.2, description="(ppo) Ratios of probabilities count up to 1 -+ this.")
    gamma: float = Field(1.0, ge=0, le=1, description="Discount of rewards of later tokens.")
    gae_lambda: float = Field(0.95, ge=0, le=1, description="(baseline value) From low variance (0) to no bias (1).")
    vf_coef: NonNegativeFloat = Field(0.5, description="Weight of the value's error.")
    ent_coef: NonNegativeFloat = Field(0.0, description="Weight of the entropy of the next token.")
    teacher_forcing: NonNegativeFloat = Field(
        0.0, description="Weight of the likelihood of real sequences beside the policy gradient."
    )

    discriminator_backbone: str = Field("lstm", description="Network that the discriminator reads sequences with.")
    discriminator_size: PositiveInt = Field(64, description="Its width.")
    discriminator_layers: PositiveInt = Field(1, description="Its layers.")
    discriminator_dropout: float = Field(0.0, ge=0, lt=1, description="Share of its embeddings that are dropped.")
    discriminator_loss: Literal["non-saturating", "least-squares", "hinge", "wasserstein"] = Field(
        "non-saturating", description="What it is trained by."
    )
    discriminator_steps: PositiveInt = Field(3, description="Its steps in each round.")
    discriminator_pretraining: NonNegativeInt = Field(300, description="Its steps before the first round.")
    discriminator_learning_rate: PositiveFloat = Field(3e-3, description="Its step size.")

    control: Control = Field(
        "none",
        description="Train without what the discriminator says: by maximum likelihood alone, or on a constant reward.",
    )
    controls: bool = Field(
        True, description="Afterwards, train both controls for as many updates, and compare with them."
    )


class SeqGANRunConfig(RunConfig):
    """A run whose timesteps are sequences that the generator learned from, as often as it did."""

    total_timesteps: PositiveInt = Field(
        150_000, description="Budget: sequences in the minibatches of the generator, pretraining included."
    )
    log_freq: PositiveInt = Field(2_000, description="Sequences between two rows of metrics.csv.")
    eval_freq: NonNegativeInt = Field(10_000, description="Sequences between two evaluations; 0: never.")
    eval_episodes: PositiveInt = Field(1_000, description="Sequences that an evaluation draws.")
    save_freq: NonNegativeInt = Field(50_000, description="Sequences between two checkpoints; 0: only at the end.")

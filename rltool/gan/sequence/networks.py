"""The two networks of a sequence GAN: embeddings and a shared backbone each, with the heads that agents have."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import torch
from torch import nn

from rltool.errors import UserError
from rltool.gan.sequence.config import SeqGANConfig
from rltool.gan.sequence.decoding import LanguageModel
from rltool.networks import build_backbone
from rltool.networks.backbone import Backbone
from rltool.networks.config import BackboneConfig
from rltool.networks.distributions import Categorical
from rltool.networks.heads import CategoricalHead, ValueHead, numpy_linear
from rltool.networks.initialization import initialize
from rltool.trees import Tree, map_tree


class SequenceGenerator(nn.Module):
    """A policy whose actions are tokens, and whose observations are the tokens before.

    Args:
        config: Options.
        words: Number of tokens.

    Raises:
        UserError: The backbone has no memory.
    """

    def __init__(self, config: SeqGANConfig, words: int) -> None:
        super().__init__()
        self.words = words
        self.embedding = nn.Embedding(words + 1, config.embedding_size)  # The last one is where a sequence begins.
        space = gym.spaces.Box(-np.inf, np.inf, (config.embedding_size,), np.float32)
        self.backbone = build_backbone(config.model_copy(update={"sequence": "time"}), space)
        if not self.backbone.has_memory:
            raise UserError(f"the {config.backbone} backbone has no memory; take --backbone lstm, gru or transformer")
        self.action_head = CategoricalHead(self.backbone.out_features, words, config.init)
        self.value_head = ValueHead(self.backbone.out_features, config.init)

    def forward(self, tokens: torch.Tensor, read: torch.Tensor | None = None) -> tuple[Categorical, torch.Tensor]:
        """What stands at each place of sequences `(n, L)`, given what stands before it.

        Args:
            tokens: The sequences.
            read: What the generator reads in their place, `(n, L)`.

        Returns:
            A distribution over tokens for each place, `n L` rows; and the value `(n, L)` of what stands before it,
            whose gradient stops at the features.
        """
        inputs = self.embedding(shifted(tokens if read is None else read, self.words))
        features = self.backbone.sequence(inputs.transpose(0, 1), self.backbone.initial_state(len(tokens)))
        features = features.transpose(0, 1)
        return self.action_head(features.flatten(0, 1)), self.value_head(features.detach())

    def language_model(self, length: int, end: int | None) -> LanguageModel:
        """The same in NumPy, one token after the other, with the weights as they are now."""
        embedding = self.embedding.weight.detach().cpu().numpy()
        step, logits = self.backbone.step_as_numpy(), numpy_linear(self.action_head.linear)

        def start(n: int) -> Tree:
            return map_tree(lambda leaf: leaf.cpu().numpy(), self.backbone.initial_state(n))

        def follow(before: np.ndarray, state: Tree) -> tuple[np.ndarray, Tree]:
            features, state = step(embedding[before], state)
            return logits(features), state

        return LanguageModel(follow, start, self.words, length, end)


class SequenceDiscriminator(nn.Module):
    """Tells real sequences from generated ones.

    A causal one reads as the generator does: what it has read says what each next token would speak for, so that the
    verdict is a sum over tokens, sum over t of f(tokens before t)[token t], as GAIL judges an action in a state. One
    network that reads a whole sequence, and has to find the odd token in it, learns far more slowly.

    Args:
        config: Options.
        words: Number of tokens.
        length: Tokens of a sequence.

    Attributes:
        causal: Whether it gives a verdict after each token; otherwise one on the whole.

    Raises:
        UserError: The backbone cannot do that.
    """

    def __init__(self, config: SeqGANConfig, words: int, length: int) -> None:
        super().__init__()
        self.causal, self.words = config.credit == "prefixes", words
        self.embedding = nn.Embedding(words + 1, config.embedding_size)  # The last one is where a sequence begins.
        self.dropout = nn.Dropout(config.discriminator_dropout)
        options = BackboneConfig(
            backbone=config.discriminator_backbone,
            model_size=config.discriminator_size,
            num_layers=config.discriminator_layers,
            hidden_sizes=(config.discriminator_size,) * config.discriminator_layers,
            activation="relu",
            window=config.window,
            sequence="time" if self.causal else "auto",
        )
        shape = (config.embedding_size,) if self.causal else (length, config.embedding_size)
        self.backbone: Backbone = build_backbone(options, gym.spaces.Box(-np.inf, np.inf, shape, np.float32))
        if self.backbone.has_memory != self.causal:
            raise UserError(
                f"the {config.discriminator_backbone} backbone has no memory, which --credit prefixes needs in the "
                "discriminator; take --discriminator-backbone lstm, gru or transformer"
            )
        self.head = nn.Linear(self.backbone.out_features, words if self.causal else 1)
        initialize(self.head, config.init, gain=0.01)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Logits of sequences `(n, L)`: `(n, L)` after each token if causal, else `(n, 1)`."""
        if not self.causal:
            return self.head(self.backbone(self.dropout(self.embedding(tokens))))
        return self.speaks_for(tokens).gather(2, tokens[:, :, None])[:, :, 0].cumsum(1)

    def speaks_for(self, tokens: torch.Tensor) -> torch.Tensor:
        """What each token would add to the logit, `(n, L, words)`, if it stood at each place of sequences `(n, L)`."""
        x = self.dropout(self.embedding(shifted(tokens, self.words)))
        features = self.backbone.sequence(x.transpose(0, 1), self.backbone.initial_state(len(tokens)))
        return self.head(features.transpose(0, 1))


def shifted(tokens: torch.Tensor, begin: int) -> torch.Tensor:
    """What stands before each of the tokens `(n, L)`; `begin` before the first."""
    return torch.cat([tokens.new_full((len(tokens), 1), begin), tokens[:, :-1]], 1)


class SequenceNetworks(nn.Module):
    """Both."""

    def __init__(self, config: SeqGANConfig, words: int, length: int) -> None:
        super().__init__()
        self.generator = SequenceGenerator(config, words)
        self.discriminator = SequenceDiscriminator(config, words, length)

    @property
    def backbone(self) -> Backbone:
        """The generator's, which other runs may start from."""
        return self.generator.backbone

"""Conditional GANs: samples of what is asked for.

A condition is a row of tokens: a class, or the words of its name. Generator and discriminator each embed it by a
network of the shared library.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import nn

from rltool.errors import UserError, unknown
from rltool.gan.conditional_config import ConditionalGANConfig
from rltool.gan.learner import Batch, Figures, GANLearner
from rltool.gan.networks import Discriminator, Generator
from rltool.networks.backbone import build_backbone
from rltool.networks.heads import ValueHead
from rltool.networks.layers import add_spectral_norm

ROWS, MOST_COLUMNS = 6, 32  # Of the picture that has a column for each class.


@dataclass(frozen=True)
class Vocabulary:
    """What can be asked for, and its tokens.

    Attributes:
        classes: Names of the classes.
        words: What the tokens stand for, from 1 on; 0 fills rows up.
        tokens: Those of each class `(classes, length)`.
    """

    classes: tuple[str, ...]
    words: tuple[str, ...]
    tokens: np.ndarray

    @classmethod
    def of(cls, classes: Sequence[str], condition: str) -> Vocabulary:
        """The vocabulary of classes: a token for each (`label`), or for each word of their names (`words`)."""
        parts = [[name] if condition == "label" else split_words(name) for name in classes]
        words = tuple(dict.fromkeys(word for each in parts for word in each))
        tokens = np.zeros((len(parts), max(map(len, parts), default=0)), np.int64)
        for row, each in zip(tokens, parts, strict=True):
            row[: len(each)] = [1 + words.index(word) for word in each]
        return cls(tuple(classes), words, tokens)

    def encode(self, text: str) -> np.ndarray:
        """The tokens `(length,)` of what a user asks for: a class's name, or known words.

        Raises:
            UserError: It is unknown, or too long.
        """
        if text in self.classes:
            return self.tokens[self.classes.index(text)]
        words, length = split_words(text), self.tokens.shape[1]
        for word in words:
            if word not in self.words:
                raise unknown("condition", word, self.words)
        if not 0 < len(words) <= length:
            raise UserError(f"'{text}' has {len(words)} words; ask for a condition of 1 to {length}")
        return np.array([1 + self.words.index(word) for word in words] + [0] * (length - len(words)))


def split_words(name: str) -> list[str]:
    """The words and numbers of a name.

    Example:
        >>> split_words("ankle-boot 7")
        ['ankle', 'boot', '7']
    """
    return re.findall(r"[^\W_]+", name)


class ConditionEncoder(nn.Module):
    """Tokens `(n, length)` to vectors `(n, condition_size)`, by a backbone over one-hot rows and a linear layer."""

    def __init__(self, config: ConditionalGANConfig, vocabulary: Vocabulary) -> None:
        super().__init__()
        self.size = 1 + len(vocabulary.words)
        space = gym.spaces.Box(0, 1, (vocabulary.tokens.shape[1], self.size), np.float32)
        options = {
            "backbone": config.condition_backbone,
            "hidden_sizes": (),
            "model_size": config.condition_size,
            "spectral_norm": False,
        }
        self.backbone = build_backbone(config.model_copy(update=options), space)
        self.linear = nn.Linear(self.backbone.out_features, config.condition_size)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.linear(self.backbone(nn.functional.one_hot(tokens, self.size).float()))


class ConditionalGenerator(Generator):
    """Maps noise and tokens to examples in the data's range."""

    def __init__(self, config: ConditionalGANConfig, shape: tuple[int, ...], vocabulary: Vocabulary) -> None:
        super().__init__(config, shape, config.condition_size)
        self.encoder = ConditionEncoder(config, vocabulary)

    def forward(self, z: torch.Tensor, condition: torch.Tensor | None = None) -> torch.Tensor:
        assert condition is not None
        return super().forward(z, self.encoder(condition))


class ProjectionDiscriminator(Discriminator):
    """Adds to the logit how far the features point where the condition does.

    Miyato & Koyama, "cGANs with projection discriminator", ICLR 2018.
    """

    def __init__(self, config: ConditionalGANConfig, shape: tuple[int, ...], vocabulary: Vocabulary) -> None:
        super().__init__(config, shape)
        self.encoder = ConditionEncoder(config, vocabulary)
        self.direction = nn.Linear(config.condition_size, self.backbone.out_features, bias=False)
        if config.spectral_norm:
            add_spectral_norm(self.encoder)
            add_spectral_norm(self.direction)

    def forward(self, x: torch.Tensor, condition: torch.Tensor | None = None) -> torch.Tensor:
        features = self.features(x)
        logits = self.head(features)
        if condition is None:  # Whether it looks real, whatever it shows.
            return logits
        return logits + (features * self.direction(self.encoder(condition))).sum(1)


class ConcatenationDiscriminator(Discriminator):
    """Puts features and condition side by side, and judges them by a hidden layer.

    Reed et al., "Generative adversarial text to image synthesis", ICML 2016.
    """

    def __init__(self, config: ConditionalGANConfig, shape: tuple[int, ...], vocabulary: Vocabulary) -> None:
        super().__init__(config, shape)
        self.encoder = ConditionEncoder(config, vocabulary)
        self.condition_size, width = config.condition_size, self.backbone.out_features
        self.hidden = nn.Sequential(nn.Linear(width + config.condition_size, width), nn.ReLU())
        self.head = ValueHead(width, config.init)
        if config.spectral_norm:
            for module in (self.encoder, self.hidden, self.head):
                add_spectral_norm(module)

    def forward(self, x: torch.Tensor, condition: torch.Tensor | None = None) -> torch.Tensor:
        features = self.features(x)
        embedded = features.new_zeros(len(x), self.condition_size) if condition is None else self.encoder(condition)
        return self.head(self.hidden(torch.cat([features, embedded], 1)))


DISCRIMINATORS = {"projection": ProjectionDiscriminator, "concatenation": ConcatenationDiscriminator}


class ConditionalGAN(GANLearner):
    """A GAN whose samples are of what is asked for.

    The discriminator judges examples with their condition: whether they look real, and whether the two match. With
    `mismatched`, it is also shown real examples with wrong conditions, as fakes; without, all it learns of conditions
    comes from what the generator gets wrong.

    Args:
        classes: Names of the classes, where the data are not to be loaded.
    """

    method, config_class = "cgan", ConditionalGANConfig
    config: ConditionalGANConfig
    DESCRIBED = ("shape", "classes")

    def __init__(self, data: str, *args: Any, classes: Sequence[str] | None = None, **kwargs: Any) -> None:
        self.data = data
        self.classes = tuple(self.dataset.classes if classes is None else classes)
        if len(self.classes) < 2:  # The files of a data set may have none.
            raise UserError(f"{data} has no labels to ask for; train a GAN without conditions: rltool train gan {data}")
        super().__init__(data, *args, **kwargs)

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """What can be asked for."""
        return Vocabulary.of(self.classes, self.config.condition)

    @cached_property
    def tokens(self) -> torch.Tensor:
        """Those of each class, `(classes, length)`."""
        return torch.from_numpy(self.vocabulary.tokens).to(self.device)

    @cached_property
    def labels(self) -> torch.Tensor:
        """Classes of all training examples `(n,)`."""
        return torch.from_numpy(self.dataset.train.y).to(self.device)

    def networks(self) -> tuple[nn.Module, nn.Module]:
        discriminator = DISCRIMINATORS[self.config.conditioning]
        return (
            ConditionalGenerator(self.config, self.shape, self.vocabulary),
            discriminator(self.config, self.shape, self.vocabulary),
        )

    def batch(self) -> Batch:
        rows = torch.randint(len(self.real), (self.config.batch_size,), device=self.device)
        return Batch(self.real[rows], self.tokens[self.labels[rows]])

    def judge(self, x: torch.Tensor, condition: torch.Tensor | None = None) -> torch.Tensor:
        return self.model.discriminator(x, condition)

    def discriminator_loss(self) -> tuple[torch.Tensor, Figures]:
        loss, figures = super().discriminator_loss()
        if not self.config.mismatched:
            return loss, figures
        rows = torch.randint(len(self.real), (self.config.batch_size,), device=self.device)
        x, right = self.augment(self.real[rows]), self.labels[rows]
        others = torch.randint(1, len(self.classes), (len(rows),), device=self.device)
        wrong = (right + others) % len(self.classes)
        mismatch = self.loss.discriminator(self.judge(x, self.tokens[right]), self.judge(x, self.tokens[wrong]))
        return loss + mismatch, {**figures, "mismatch_loss": mismatch.detach()}

    # Sampling and measuring

    def usual_conditions(self, n: int) -> torch.Tensor:
        """All classes in turn."""
        return self.tokens[torch.arange(n, device=self.device) % len(self.classes)]

    def read_condition(self, text: str, n: int) -> torch.Tensor:
        return torch.from_numpy(self.vocabulary.encode(text)).to(self.device).expand(n, -1)

    def sample(self, n: int, seed: int = 0, condition: torch.Tensor | None = None) -> np.ndarray:
        """Samples `(n, ...)` in the data's range; without a condition, of all classes in turn."""
        return super().sample(n, seed, self.usual_conditions(n) if condition is None else condition)

    def labeled_samples(self, n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Samples `(n, ...)` and the classes `(n,)` that they were asked to be of."""
        return self.sample(n, seed), np.arange(n) % len(self.classes)

    def draw(self, run: Any) -> None:
        """Also `classes.png`: a column of samples for each class."""
        super().draw(run)
        if len(self.shape) == 3 and len(self.classes) <= MOST_COLUMNS:
            from rltool.gan.pictures import save_image, tile

            save_image(tile(run.agent.sample(ROWS * len(self.classes)), len(self.classes)), run.path / "classes.png")

    def measured(self, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        return self.labeled_samples(n, seed)

"""The contract of all backbones, and their registry.

A backbone turns a batch of raw observations into feature vectors. Policies, critics, classifiers and the rest are a
backbone plus a head, so a new backbone registered here serves all of them at once.
"""

from __future__ import annotations

from collections.abc import Callable

import gymnasium as gym
import numpy as np
import torch
from torch import nn

from rltool.networks.config import BACKBONES, BackboneConfig

NumpyFunction = Callable[[np.ndarray], np.ndarray]


class Backbone(nn.Module):
    """Maps a batch of observations `(B, *space.shape)` to features `(B, out_features)`.

    Attributes:
        input_space: The space of one observation.
        out_features: Length of the feature vector.
    """

    def __init__(self, input_space: gym.Space, out_features: int) -> None:
        super().__init__()
        self.input_space = input_space
        self.out_features = out_features

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        raise TypeError(f"{type(self).__name__} lacks a forward method")

    def initial_state(self, batch: int) -> torch.Tensor | None:
        """State of a recurrent backbone before the first observation; None for the others."""
        return None

    def as_numpy(self) -> NumpyFunction:
        """The same function (in evaluation mode) from NumPy to NumPy, with the weights as they are now.

        A rollout of a small network spends its time in calls, not in arithmetic: backbones that can, override this
        with plain NumPy over views of their weights. Take a new function after the weights have moved elsewhere.
        """
        device = next((p.device for p in self.parameters()), torch.device("cpu"))

        def infer(observations: np.ndarray) -> np.ndarray:
            training = self.training
            self.eval()
            with torch.no_grad():
                features = self(torch.from_numpy(np.ascontiguousarray(observations)).to(device)).cpu().numpy()
            self.train(training)
            return features

        return infer


def register_backbone(name: str, summary: str = "") -> Callable[[type], type]:
    """Class decorator: makes a backbone known as `name` to `build_backbone` and to `--backbone`.

    The class is called as `cls(config, space)` and raises `UserError` for a space it cannot read.

    Example:
        >>> @register_backbone("last-pixel")
        ... class LastPixel(Backbone):
        ...     def __init__(self, config, space):
        ...         super().__init__(space, out_features=1)
        ...     def forward(self, observations):
        ...         return observations.flatten(1)[:, -1:].float()
        >>> build_backbone(BackboneConfig(backbone="last-pixel"), gym.spaces.Box(0, 1, (3,))).out_features
        1
    """
    return BACKBONES.register(name, summary)


def list_backbones() -> list[str]:
    """Names that `--backbone` takes."""
    return BACKBONES.names()


def is_image(space: gym.Space) -> bool:
    """Whether a space holds images: three axes of bytes, channels first or last."""
    return isinstance(space, gym.spaces.Box) and len(space.shape) == 3 and space.dtype == np.uint8


def build_backbone(config: BackboneConfig, space: gym.Space) -> Backbone:
    """Build the backbone a config names for observations of a space.

    Args:
        config: Options; `backbone="auto"` picks `cnn` for images and `mlp` for everything else.
        space: The space of one observation.

    Returns:
        A backbone with `.input_space` and `.out_features`.

    Raises:
        UserError: No such backbone, or it cannot read this space.
    """
    name = config.backbone
    if name == "auto":
        name = "cnn" if is_image(space) else "mlp"
    backbone: Backbone = BACKBONES[name].load()(config, space)
    return backbone

"""The contract of all backbones, and their registry.

A backbone turns a batch of raw observations into feature vectors. Policies, critics, classifiers and the rest are a
backbone plus a head, so a new backbone registered here serves all of them at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from torch import nn

from rltool.errors import UserError
from rltool.networks.config import BACKBONES, BackboneConfig
from rltool.networks.layers import add_spectral_norm
from rltool.networks.observations import as_tensors, image_size, is_image, space_leaves
from rltool.trees import Tree

NumpyFunction = Callable[[Tree], np.ndarray]
NumpyStep = Callable[[Tree, Tree], tuple[np.ndarray, Tree]]
SMALLEST_CNN_IMAGE = 36  # Pixels of the shorter side that leave one after the strides of Nature-DQN's network.


class Backbone(nn.Module):
    """Maps a batch of observations to features `(B, out_features)`.

    Observations are a tree of tensors with a common first axis: a tensor `(B, *space.shape)`, for Dict and Tuple spaces
    a dictionary or tuple of them, for graphs a `GraphBatch`.

    A backbone with memory reads sequences: it also takes a state, a tree of tensors whose first axis are the sequences,
    all zero at the beginning of an episode.

    Attributes:
        input_space: The space of one observation.
        out_features: Length of the feature vector.
        has_memory: Whether features depend on earlier observations of the episode: if so, `initial_state`, `sequence`
            and `step_as_numpy` take the place of `forward` and `as_numpy`.
    """

    has_memory = False

    def __init__(self, input_space: gym.Space, out_features: int) -> None:
        super().__init__()
        self.input_space = input_space
        self.out_features = out_features

    @classmethod
    def reads(cls, space: gym.Space) -> bool:
        """Whether a part of this kind in a Dict or Tuple is read by this backbone, where a user names it."""
        return False

    def forward(self, observations: Tree) -> torch.Tensor:
        raise TypeError(f"{type(self).__name__} lacks a forward method")

    def as_numpy(self) -> NumpyFunction:
        """The same function (in evaluation mode) from NumPy to NumPy, with the weights as they are now.

        A rollout of a small network spends its time in calls, not in arithmetic: backbones that can, override this
        with plain NumPy over views of their weights. Take a new function after the weights have moved elsewhere.
        """
        device = device_of(self)

        def infer(observations: Tree) -> np.ndarray:
            with torch.no_grad(), evaluating(self):
                return self(as_tensors(observations, device)).cpu().numpy()

        return infer

    # With memory

    def initial_state(self, batch: int) -> Tree | None:
        """State of `batch` sequences before their first observation: zeros; None without memory."""
        return None

    def sequence(self, observations: Tree, state: Tree) -> torch.Tensor:
        """Features `(L, S, out_features)` of S sequences of L observations `(L, S, ...)`, from their states on."""
        raise TypeError(f"{type(self).__name__} lacks a memory")

    def step_as_numpy(self) -> NumpyStep:
        """A function from observations `(B, ...)` and states, NumPy arrays, to features and the states after them."""
        raise TypeError(f"{type(self).__name__} lacks a memory")


def device_of(module: nn.Module) -> torch.device:
    """Where a module's parameters live."""
    return next((p.device for p in module.parameters()), torch.device("cpu"))


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode (no dropout, fixed batch norm) inside."""
    training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(training)


def copy_weights(pairs: Sequence[tuple[nn.Module, nn.Module]], what: str) -> None:
    """Copy the weights of the second module of each pair into the first; all of them, or none.

    Args:
        pairs: Where to, and where from.
        what: Their name in an error.

    Raises:
        UserError: Their shapes differ.
    """
    for to, source in pairs:
        mine, theirs = ({name: tuple(t.shape) for name, t in module.state_dict().items()} for module in (to, source))
        for name in {**mine, **theirs}:
            here, there = mine.get(name, "nothing"), theirs.get(name, "nothing")
            if here != there:
                raise UserError(
                    f"{what} does not fit: {name} is {here} here and {there} there; give both the same --backbone, "
                    "--hidden-sizes and kind of observations"
                )
    for to, source in pairs:
        to.load_state_dict(source.state_dict())


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


def automatic_backbone(space: gym.Space) -> str:
    """The backbone that `auto` stands for."""
    if isinstance(space, spaces.Graph):
        return "gnn"
    if is_image(space):
        return "cnn" if min(image_size(space)[1:]) >= SMALLEST_CNN_IMAGE else "impala"
    if isinstance(space, spaces.Dict | spaces.Tuple):
        return "combined" if any(automatic_backbone(leaf) != "mlp" for _, leaf in space_leaves(space)) else "mlp"
    return "mlp"


def build_backbone(config: BackboneConfig, space: gym.Space) -> Backbone:
    """Build the backbone a config names for observations of a space.

    Args:
        config: Options; `backbone="auto"` picks `cnn` for images (`impala` for small ones), `gnn` for graphs,
            `combined` for Dict and Tuple spaces with either, and `mlp` for everything else. A backbone for images or
            graphs that is named for a Dict or Tuple space reads the images or graphs in it, as part of `combined`.
        space: The space of one observation.

    Returns:
        A backbone with `.input_space` and `.out_features`.

    Raises:
        UserError: No such backbone, or it cannot read this space.
    """
    name = automatic_backbone(space) if config.backbone == "auto" else config.backbone
    backbone_class = BACKBONES[name].load()
    if isinstance(space, spaces.Dict | spaces.Tuple) and any(
        backbone_class.reads(leaf) for _, leaf in space_leaves(space)
    ):
        backbone_class = BACKBONES["combined"].load()
    backbone: Backbone = backbone_class(config, space)
    if config.spectral_norm:
        add_spectral_norm(backbone)
    return backbone

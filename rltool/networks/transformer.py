"""The transformer (Lecture 5; Vaswani et al., 2017): self-attention over past observations, tokens or patches."""

from __future__ import annotations

import math
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import nn

from rltool.errors import UserError
from rltool.networks.backbone import NumpyFunction, NumpyStep, device_of
from rltool.networks.config import BackboneConfig
from rltool.networks.initialization import initialize
from rltool.networks.memory import SequenceBackbone, State, reads_tokens
from rltool.networks.observations import Flatten, channels_last, image_size, is_image
from rltool.trees import Tree


def sinusoidal_positions(length: int, size: int) -> torch.Tensor:
    """Sines and cosines of `length` positions at geometrically spaced frequencies, `(length, size)`."""
    position = torch.arange(length)[:, None]
    frequency = torch.exp(-math.log(10_000) * torch.arange(0, size, 2) / size)
    table = torch.zeros(length, size)
    table[:, 0::2] = torch.sin(position * frequency)
    table[:, 1::2] = torch.cos(position * frequency)[:, : size // 2]
    return table


class Attention(nn.Module):
    """Multi-head attention.

    The score of a query q and a key k is q k / sqrt(d), or additive: w tanh(q + k) (Bahdanau et al., 2015).
    """

    def __init__(self, size: int, num_heads: int, additive: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(size, size)
        self.key = nn.Linear(size, size)
        self.value = nn.Linear(size, size)
        self.output = nn.Linear(size, size)
        self.score = nn.Parameter(torch.randn(num_heads, size // num_heads) * 0.1) if additive else None

    def forward(
        self,
        x: torch.Tensor,
        memory: torch.Tensor,
        mask: torch.Tensor | None = None,
        positions: torch.Tensor | None = None,
        distance: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """What each of Q positions gathers from K others.

        Args:
            x: Where queries come from, `(B, Q, size)`.
            memory: Where keys and values come from, `(B, K, size)`.
            mask: Which keys a query sees, `(B, Q, K)`; at least one each. None: all.
            positions: Encodings of the distances 0..W-1, `(W, size)`, to be added to what keys are made of.
            distance: How far each key lies back, `(Q, K)`, from 0 to W - 1.

        Returns:
            `(B, Q, size)`.
        """
        q, k, v = self._heads(self.query(x)), self._heads(self.key(memory)), self._heads(self.value(memory))
        if self.score is None:
            scores = q @ k.transpose(-1, -2)
            if positions is not None and distance is not None:
                # q (k + p) = q k + q p: the second part once for each distance, then put where it belongs.
                by_distance = q @ self._heads(nn.functional.linear(positions, self.key.weight)).transpose(-1, -2)
                scores = scores + by_distance.gather(-1, distance.expand(*scores.shape[:2], -1, -1))
            scores = scores / math.sqrt(q.shape[-1])
        else:
            keys = k[:, :, None]
            if positions is not None and distance is not None:
                keys = keys + self._heads(nn.functional.linear(positions, self.key.weight))[:, distance]
            scores = (torch.tanh(q[:, :, :, None] + keys) * self.score[:, None, None]).sum(-1)
        if mask is not None:
            scores = scores.masked_fill(~mask[:, None], float("-inf"))
        return self.output((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))

    def _heads(self, x: torch.Tensor) -> torch.Tensor:
        """`(..., K, size)` as `(..., heads, K, size / heads)`."""
        return x.unflatten(-1, (self.num_heads, -1)).transpose(-2, -3)


class Block(nn.Module):
    """x + attention(norm(x)), then x + feed-forward(norm(x))."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        size = config.model_size
        self.attention = Attention(size, config.num_heads, config.attention == "additive")
        self.norm1, self.norm2 = nn.LayerNorm(size), nn.LayerNorm(size)
        self.feed_forward = nn.Sequential(nn.Linear(size, 4 * size), nn.ReLU(), nn.Linear(4 * size, size))
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: torch.Tensor, past: torch.Tensor | None = None, *where: Any) -> torch.Tensor:
        """`(B, Q, size)` to the same; `past` `(B, P, size)` are positions before them that can be seen, too."""
        memory = self.norm1(x if past is None else torch.cat((past, x), 1))
        x = x + self.dropout(self.attention(memory[:, -x.shape[1] :], memory, *where))
        return x + self.dropout(self.feed_forward(self.norm2(x)))


class Transformer(SequenceBackbone):
    """Self-attention over past observations, the rows of one observation, or the patches of an image.

    Over time, each layer looks back on the last `window` outputs of the one below, in the same episode (causal,
    truncated attention with a memory: Dai et al., "Transformer-XL", 2019); the state is what the layers have seen.
    Positions are distances there. Over tokens every position sees all others, and features are the outputs' mean.

    Raises:
        UserError: `model_size` is no multiple of `num_heads`, or an image holds no patch.
    """

    def __init__(self, config: BackboneConfig, space: gym.Space) -> None:
        tokens = reads_tokens(config, space, "transformer", images=True)
        super().__init__(config, space, config.model_size, tokens)
        size, shape = config.model_size, space.shape or ()
        if size % config.num_heads:
            raise UserError(f"model-size {size} is no multiple of num-heads {config.num_heads}")
        self.patches: nn.Conv2d | None = None
        if not tokens:
            self.embed, length = nn.Linear(self.encoder.out_features, size), config.window
        elif is_image(space):
            self.channels_last = channels_last(space)
            channels, height, width = image_size(space)
            length = (height // config.patch_size) * (width // config.patch_size)
            if not length:
                raise UserError(f"an image of {height} x {width} pixels holds no patch; lower --patch-size")
            self.patches = nn.Conv2d(channels, size, config.patch_size, config.patch_size)
        else:
            length, features = shape
            self.embed = nn.Linear(features, size)
        positions = sinusoidal_positions(length, size)
        if config.position == "learned":
            self.positions = nn.Parameter(0.02 * torch.randn(length, size))
        else:
            self.register_buffer("positions", positions * (config.position == "sinusoidal"), persistent=False)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.norm = nn.LayerNorm(size)
        initialize(self, config.init, gain=1.0)

    def initial_state(self, batch: int) -> Tree | None:
        if not self.has_memory:
            return None
        past, device = self.config.window - 1, device_of(self)
        shape = (batch, self.config.num_layers, past, self.config.model_size)
        return {"memory": torch.zeros(shape, device=device), "seen": torch.zeros(batch, past, device=device)}

    def run(self, x: torch.Tensor, state: State) -> tuple[torch.Tensor, State]:
        past, (length, sequences) = self.config.window - 1, x.shape[:2]
        seen = torch.cat((state["seen"], x.new_ones(sequences, length)), 1)
        steps = torch.arange(length + past, device=x.device)
        distance = steps[past:, None] - steps
        near = (distance >= 0) & (distance <= past)
        where = (near & (seen[:, None] > 0), self.positions, distance.clamp(0, past))
        x = self.embed(x.transpose(0, 1))
        memory = []
        for k, block in enumerate(self.blocks):
            before = state["memory"][:, k]
            memory.append(torch.cat((before, x), 1)[:, length:])
            x = block(x, before, *where)
        return self.norm(x).transpose(0, 1), {"memory": torch.stack(memory, 1), "seen": seen[:, length:]}

    def read_tokens(self, x: torch.Tensor) -> torch.Tensor:
        if self.patches is None:
            tokens = self.embed(x.float())
        else:
            x = x.float() / 255
            tokens = self.patches(x.permute(0, 3, 1, 2) if self.channels_last else x).flatten(2).transpose(1, 2)
        tokens = tokens + self.positions
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens).mean(1)

    def step_as_numpy(self) -> NumpyStep:
        plain = isinstance(self.encoder, Flatten) and device_of(self).type == "cpu"
        # Weights under spectral norm are computed anew at each call: there is nothing to take views of.
        if not plain or self.config.attention == "additive" or self.config.spectral_norm:
            return super().step_as_numpy()
        encode: NumpyFunction = self.encoder.as_numpy()
        w = {name: parameter.detach().numpy() for name, parameter in self.named_parameters()}
        heads, size = self.config.num_heads, self.config.model_size
        positions = self.positions.detach().numpy()[::-1]  # From the farthest to this step.

        def linear(name: str, x: np.ndarray) -> np.ndarray:
            return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

        def norm(name: str, x: np.ndarray) -> np.ndarray:
            x = x - x.mean(-1, keepdims=True)
            return x / np.sqrt(np.square(x).mean(-1, keepdims=True) + 1e-5) * w[f"{name}.weight"] + w[f"{name}.bias"]

        def step(observations: Tree, state: Tree) -> tuple[np.ndarray, Tree]:
            x = linear("embed", encode(observations))  # (B, size)
            now = np.ones((len(x), 1), np.float32)
            seen = np.concatenate((state["seen"], now), 1)  # (B, window)
            bias = np.where(seen > 0, np.float32(0), np.float32(-np.inf))[:, None]
            memory = []
            for k in range(len(self.blocks)):
                name = f"blocks.{k}"
                tokens = np.concatenate((state["memory"][:, k], x[:, None]), 1)  # (B, window, size)
                memory.append(tokens[:, 1:])
                tokens = norm(f"{name}.norm1", tokens)
                # A single query: its product with each key is its product, through the key's weights, with the token.
                q = linear(f"{name}.attention.query", tokens[:, -1]).reshape(len(x), heads, -1)
                keys = w[f"{name}.attention.key.weight"].reshape(heads, -1, size)
                through = np.matmul(q.transpose(1, 0, 2), keys).transpose(1, 0, 2)  # (B, heads, size)
                scores = through @ (tokens + positions).transpose(0, 2, 1) / np.float32(math.sqrt(size // heads)) + bias
                scores = np.exp(scores - scores.max(-1, keepdims=True))
                scores /= scores.sum(-1, keepdims=True)
                values = w[f"{name}.attention.value.weight"].reshape(heads, -1, size)
                gathered = np.matmul((scores @ tokens).transpose(1, 0, 2), values.transpose(0, 2, 1))
                y = gathered.transpose(1, 0, 2).reshape(len(x), size) + w[f"{name}.attention.value.bias"]
                x = x + linear(f"{name}.attention.output", y)
                hidden = np.maximum(linear(f"{name}.feed_forward.0", norm(f"{name}.norm2", x)), 0)
                x = x + linear(f"{name}.feed_forward.2", hidden)
            return norm("norm", x), {"memory": np.stack(memory, 1), "seen": seen[:, 1:]}

        return step

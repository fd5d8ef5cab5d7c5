"""The transformer (Lecture 5; Vaswani et al., 2017): self-attention over past observations, tokens or patches."""

from __future__ import annotations

import math

import gymnasium as gym
import torch
from torch import nn
from torch.nn import functional as F

from rltool.errors import UserError
from rltool.networks.backbone import device_of
from rltool.networks.config import BackboneConfig
from rltool.networks.initialization import initialize
from rltool.networks.memory import SequenceBackbone, State, reads_tokens
from rltool.networks.observations import is_image
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
        self.key_value = nn.Linear(size, 2 * size)
        self.output = nn.Linear(size, size)
        self.score = nn.Parameter(torch.randn(num_heads, size // num_heads) * 0.1) if additive else None

    def forward(self, x: torch.Tensor, memory: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """What the queries of `x` `(B, Q, size)` gather from `memory` `(B, K, size)`; `(B, Q, size)`.

        `mask` `(B, 1, Q, K)` says which keys a query may see; at least one each.
        """
        q = self._heads(self.query(x))
        k, v = (self._heads(part) for part in self.key_value(memory).chunk(2, -1))
        if self.score is None:
            y = F.scaled_dot_product_attention(q, k, v, mask)
        else:
            scores = (torch.tanh(q[:, :, :, None] + k[:, :, None]) * self.score[:, None, None]).sum(-1)
            if mask is not None:
                scores = scores.masked_fill(~mask, float("-inf"))
            y = scores.softmax(-1) @ v
        return self.output(y.transpose(1, 2).flatten(2))

    def _heads(self, x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


class Block(nn.Module):
    """x + attention(norm(x)), then x + feed-forward(norm(x))."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        size = config.model_size
        self.attention = Attention(size, config.num_heads, config.attention == "additive")
        self.norm1, self.norm2 = nn.LayerNorm(size), nn.LayerNorm(size)
        self.feed_forward = nn.Sequential(nn.Linear(size, 4 * size), nn.ReLU(), nn.Linear(4 * size, size))
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None, last: bool = False) -> torch.Tensor:
        """`(B, K, size)` to the same shape or, where only the last position is wanted, `(B, 1, size)`."""
        memory = self.norm1(x)
        if last:
            x, mask = x[:, -1:], None if mask is None else mask[:, :, -1:]
        x = x + self.dropout(self.attention(memory[:, -x.shape[1] :], memory, mask))
        return x + self.dropout(self.feed_forward(self.norm2(x)))


class Transformer(SequenceBackbone):
    """Self-attention over the last `window` observations, the rows of one observation, or the patches of an image.

    Over time, its features at a timestep follow from that timestep's window alone, so that learning and acting see the
    same; its state is the window's earlier observations. Attention is causal there, and stops at the episode's start.

    Raises:
        UserError: `model_size` is no multiple of `num_heads`, or an image is no multiple of `patch_size`.
    """

    causal: torch.Tensor

    def __init__(self, config: BackboneConfig, space: gym.Space) -> None:
        tokens = reads_tokens(config, space, "transformer", images=True)
        super().__init__(config, space, config.model_size, tokens)
        size = config.model_size
        if size % config.num_heads:
            raise UserError(f"model-size {size} is no multiple of num-heads {config.num_heads}")
        self.patches: nn.Conv2d | None = None
        if not tokens:
            self.embed, length = nn.Linear(self.encoder.out_features, size), config.window
        elif is_image(space):
            self.channels_last = space.shape[-1] <= space.shape[0]  # type: ignore[index]
            shape = space.shape or ()
            channels, height, width = (shape[2], *shape[:2]) if self.channels_last else shape
            length = (height // config.patch_size) * (width // config.patch_size)
            if not length:
                raise UserError(f"an image of {height} x {width} pixels holds no patch; lower --patch-size")
            self.patches = nn.Conv2d(channels, size, config.patch_size, config.patch_size)
        else:
            length, features = space.shape or ()
            self.embed = nn.Linear(features, size)
        positions = sinusoidal_positions(length, size)
        if config.position == "learned":
            self.positions = nn.Parameter(positions * 0 + torch.randn(length, size) * 0.02)
        else:
            self.register_buffer("positions", positions * (config.position == "sinusoidal"), persistent=False)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.norm = nn.LayerNorm(size)
        initialize(self, config.init, gain=1.0)
        self.register_buffer("causal", torch.ones(length, length, dtype=torch.bool).tril(), persistent=False)

    def initial_state(self, batch: int) -> Tree | None:
        if not self.has_memory:
            return None
        past, device = self.config.window - 1, device_of(self)
        return {
            "inputs": torch.zeros(batch, past, self.encoder.out_features, device=device),
            "seen": torch.zeros(batch, past, device=device),
        }

    def run(self, x: torch.Tensor, state: State) -> tuple[torch.Tensor, State]:
        window, (length, sequences) = self.config.window, x.shape[:2]
        inputs = torch.cat((state["inputs"], x.transpose(0, 1)), 1)  # (S, window - 1 + L, n)
        seen = torch.cat((state["seen"], x.new_ones(sequences, length)), 1)
        # Every timestep becomes an example of its own: its window.
        tokens = self.embed(inputs).unfold(1, window, 1).permute(1, 0, 3, 2).flatten(0, 1)  # (L * S, window, size)
        mask = seen.unfold(1, window, 1).transpose(0, 1).flatten(0, 1)[:, None, None].bool() & self.causal
        # A position before the episode sees itself, and nobody sees it.
        mask = mask | torch.eye(window, dtype=torch.bool, device=x.device)
        tokens = tokens + self.positions
        for block in self.blocks:
            tokens = block(tokens, mask, last=block is self.blocks[-1])
        features = self.norm(tokens[:, -1]).unflatten(0, (length, sequences))
        return features, {"inputs": inputs[:, length:], "seen": seen[:, length:]}

    def read_tokens(self, x: torch.Tensor) -> torch.Tensor:
        if self.patches is None:
            tokens = self.embed(x.float())
        else:
            x = x.float() / 255
            tokens = self.patches(x.permute(0, 3, 1, 2) if self.channels_last else x).flatten(2).transpose(1, 2)
        tokens = tokens + self.positions
        for block in self.blocks:
            tokens = block(tokens, None)
        return self.norm(tokens).mean(1)

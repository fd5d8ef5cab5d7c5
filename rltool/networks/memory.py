"""Recurrent backbones (Lecture 4): Elman and Jordan networks, LSTM and GRU.

Over time, the memory runs through the observations of an episode; over tokens, through the rows of one observation.
Whole sequences go through PyTorch's fused loops; acting, one step at a time, through NumPy cells.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from rltool.errors import UserError
from rltool.networks.backbone import Backbone, NumpyFunction, NumpyStep, build_backbone, device_of, evaluating
from rltool.networks.config import BackboneConfig
from rltool.networks.observations import Flatten, as_tensors, is_image, space_leaves
from rltool.trees import Tree, map_tree

State = dict[str, Any]


def reads_tokens(config: BackboneConfig, space: gym.Space, name: str, images: bool = False) -> bool:
    """Whether a sequence backbone runs over the rows of one observation instead of over time.

    Raises:
        UserError: Tokens are asked for, but an observation has no rows.
    """
    rows = isinstance(space, gym.spaces.Box) and len(space.shape) == 2
    rows = rows or (images and is_image(space))
    if config.sequence == "tokens" and not rows:
        raise UserError(
            f"the {name} reads tokens in a Box of shape (tokens, features){' or in images' if images else ''}, not in "
            f"{space}; take --sequence time"
        )
    return rows if config.sequence == "auto" else config.sequence == "tokens"


def build_encoder(config: BackboneConfig, space: gym.Space) -> Flatten | Backbone:
    """What turns each observation of a sequence into a vector: nothing to learn, unless it has images or graphs."""
    if any(is_image(leaf) or isinstance(leaf, gym.spaces.Graph) for _, leaf in space_leaves(space)):
        return build_backbone(config.model_copy(update={"backbone": "auto"}), space)
    return Flatten(space)


class SequenceBackbone(Backbone):
    """What recurrent networks and the transformer share: an encoder for each observation, and the two readings.

    Over time (`has_memory`), subclasses define `initial_state`, `run` and maybe a faster `step_as_numpy`; over tokens,
    `read_tokens`.
    """

    encoder: Flatten | Backbone

    def __init__(self, config: BackboneConfig, space: gym.Space, out_features: int, tokens: bool) -> None:
        super().__init__(space, out_features)
        self.config = config
        self.has_memory = not tokens
        if not tokens:
            self.encoder = build_encoder(config, space)

    def run(self, x: torch.Tensor, state: State) -> tuple[torch.Tensor, State]:
        """From vectors `(L, S, n)` and states to features `(L, S, out_features)` and the states after them."""
        raise TypeError(f"{type(self).__name__} lacks a run")

    def read_tokens(self, x: torch.Tensor) -> torch.Tensor:
        """From observations `(B, ...)` that hold tokens to features `(B, out_features)`."""
        raise TypeError(f"{type(self).__name__} does not read tokens")

    def forward(self, observations: Tree) -> torch.Tensor:
        if self.has_memory:
            raise TypeError(f"{type(self).__name__} has a memory: give it a sequence")
        return self.read_tokens(observations)

    def sequence(self, observations: Tree, state: Tree) -> torch.Tensor:
        return self.run(self.encode(observations), state)[0]

    def encode(self, observations: Tree) -> torch.Tensor:
        """Observations `(L, S, ...)` as vectors `(L, S, n)`."""
        shape: list[torch.Size] = []

        def rows(leaf: torch.Tensor) -> torch.Tensor:
            shape.append(leaf.shape[:2])
            return leaf.flatten(0, 1)

        return self.encoder(map_tree(rows, observations)).unflatten(0, shape[0])

    def step_as_numpy(self) -> NumpyStep:
        device = device_of(self)

        def step(observations: Tree, state: Tree) -> tuple[np.ndarray, Tree]:
            with torch.no_grad(), evaluating(self):
                x = self.encoder(as_tensors(observations, device))
                features, after = self.run(x[None], as_tensors(state, device))
            return features[0].cpu().numpy(), map_tree(lambda leaf: leaf.cpu().numpy(), after)

        return step


# Cells in NumPy. Each gets one layer's weights, its input `(B, n)` and its state, `(B, size)` by name.


def sigmoid(x: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)), without overflow."""
    return 0.5 * np.tanh(0.5 * x) + 0.5


def elman_cell(w: list[np.ndarray], x: np.ndarray, state: State) -> State:
    """H = tanh(W x + U h + b)."""
    return {"h": np.tanh(x @ w[0] + state["h"] @ w[1] + (w[2] + w[3]))}


def lstm_cell(w: list[np.ndarray], x: np.ndarray, state: State) -> State:
    """C = f c + i g, h = o tanh(c): what the forget gate f lets pass is never squashed."""
    gates = x @ w[0] + state["h"] @ w[1] + (w[2] + w[3])
    i, f, g, o = np.split(gates, 4, 1)
    c = sigmoid(f) * state["c"] + sigmoid(i) * np.tanh(g)
    return {"h": sigmoid(o) * np.tanh(c), "c": c}


def gru_cell(w: list[np.ndarray], x: np.ndarray, state: State) -> State:
    """H = (1 - z) n + z h: one gate z forgets and lets in."""
    h = state["h"]
    from_x, from_h = x @ w[0] + w[2], h @ w[1] + w[3]
    size = h.shape[1]
    gates = sigmoid(from_x[:, : 2 * size] + from_h[:, : 2 * size])
    r, z = gates[:, :size], gates[:, size:]
    n = np.tanh(from_x[:, 2 * size :] + r * from_h[:, 2 * size :])
    return {"h": n + z * (h - n)}


class Recurrent(SequenceBackbone):
    """A recurrent network of `num_layers` layers of `model_size` units.

    Over tokens its features are its last outputs, in both directions if `bidirectional`; over time, which is causal, it
    cannot look ahead, and its features are its outputs and, with a `shortcut`, what the last of them read.

    Raises:
        UserError: It is asked to run over time in both directions, or to read tokens where there are none.
    """

    name = "recurrent"
    core_class: Any  # PyTorch's module, or one that is called in the same way
    cell: Callable[[list[np.ndarray], np.ndarray, State], State]
    state_names: tuple[str, ...] = ("h",)

    def __init__(self, config: BackboneConfig, space: gym.Space) -> None:
        tokens = reads_tokens(config, space, self.name)
        if config.bidirectional and not tokens:
            raise UserError("over time no network can look ahead; leave out --bidirectional, or take --sequence tokens")
        super().__init__(config, space, config.model_size * (1 + config.bidirectional), tokens)
        in_features = (space.shape or ())[-1] if tokens else self.encoder.out_features
        self.shortcut = config.shortcut and not tokens
        if self.shortcut:
            self.out_features += in_features
        dropout = config.dropout if config.num_layers > 1 else 0.0
        self.core = self.core_class(
            in_features, config.model_size, config.num_layers, dropout=dropout, bidirectional=config.bidirectional
        )
        if config.init == "orthogonal":
            for name, parameter in self.core.named_parameters():
                (nn.init.zeros_ if "bias" in name else nn.init.orthogonal_)(parameter)
        self._weights: tuple[int, list[list[np.ndarray]]] | None = None

    def initial_state(self, batch: int) -> Tree | None:
        if not self.has_memory:
            return None
        shape = (batch, self.config.num_layers, self.config.model_size)
        return {name: torch.zeros(shape, device=device_of(self)) for name in self.state_names}

    def run(self, x: torch.Tensor, state: State) -> tuple[torch.Tensor, State]:
        # PyTorch has layers first, states have sequences first.
        before = tuple(state[name].transpose(0, 1).contiguous() for name in self.state_names)
        features, after = self.core(x, before if len(before) > 1 else before[0])
        after = after if len(before) > 1 else (after,)
        if self.shortcut:
            features = torch.cat((features, x), -1)
        return features, {name: h.transpose(0, 1) for name, h in zip(self.state_names, after, strict=True)}

    def read_tokens(self, x: torch.Tensor) -> torch.Tensor:
        _, last = self.core(x.float().transpose(0, 1))
        h = last[0] if len(self.state_names) > 1 else last  # (layers * directions, B, size)
        return h[-1 - self.config.bidirectional :].transpose(0, 1).flatten(1)

    def step_as_numpy(self) -> NumpyStep:
        if not isinstance(self.encoder, Flatten) or device_of(self).type != "cpu":
            return super().step_as_numpy()
        encode: NumpyFunction = self.encoder.as_numpy()
        layers, cell = self._numpy_weights(), type(self).cell

        def step(observations: Tree, state: Tree) -> tuple[np.ndarray, Tree]:
            seen = x = encode(observations)
            after: dict[str, list[np.ndarray]] = {name: [] for name in state}
            for k, weights in enumerate(layers):
                new = cell(weights, x, {name: h[:, k] for name, h in state.items()})
                for name, h in new.items():
                    after[name].append(h)
                x = new["h"]
            features = np.concatenate((x, seen), 1) if self.shortcut else x
            if len(layers) == 1:
                return features, {name: h[0][:, None] for name, h in after.items()}
            return features, {name: np.stack(h, 1) for name, h in after.items()}

        return step

    def _numpy_weights(self) -> list[list[np.ndarray]]:
        # Every rollout asks for them: kept until the weights have moved to other memory.
        pointer = self.core.weight_ih_l0.data_ptr()
        if self._weights is None or self._weights[0] != pointer:
            names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            layers = [[getattr(self.core, f"{n}_l{k}").detach().numpy().T for n in names] for k in range(self.depth)]
            self._weights = pointer, layers
        return self._weights[1]

    @property
    def depth(self) -> int:
        """Number of layers."""
        return self.config.num_layers


class LSTM(Recurrent):
    """Long short-term memory (Hochreiter & Schmidhuber, 1997; with a forget gate, Gers et al., 2000)."""

    name = "lstm"
    core_class = nn.LSTM
    cell = staticmethod(lstm_cell)
    state_names = ("h", "c")


class GRULayer(torch.autograd.Function):
    """One layer of a GRU over a sequence, on a CPU: PyTorch has no fused one, and is five times slower there.

    In and out go what the input adds to the gates, `(L, S, 3 size)`, the state before, `(S, size)`, and the weights of
    the state, `(3 size, size)` and `(3 size,)`; the outputs are `(L, S, size)`.
    """

    @staticmethod
    def forward(ctx: Any, gates: torch.Tensor, h: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> Any:
        x, before, w, b = gates.detach().numpy(), h.detach().numpy(), weight.detach().numpy().T, bias.detach().numpy()
        length, size = len(x), before.shape[1]
        h_all = np.empty((length + 1, *before.shape), np.float32)
        rz, n = np.empty((length, len(before), 2 * size), np.float32), np.empty((length, *before.shape), np.float32)
        hn = np.empty_like(n)
        h_all[0] = before
        for t in range(length):
            from_h = h_all[t] @ w
            from_h += b
            rz[t] = sigmoid(x[t, :, : 2 * size] + from_h[:, : 2 * size])
            hn[t] = from_h[:, 2 * size :]
            np.tanh(x[t, :, 2 * size :] + rz[t, :, :size] * hn[t], out=n[t])
            h_all[t + 1] = n[t] + rz[t, :, size:] * (h_all[t] - n[t])
        ctx.kept, ctx.weight = (h_all, rz, n, hn), weight
        return torch.from_numpy(h_all[1:])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        (h, rz, n, hn), w = ctx.kept, ctx.weight.detach().numpy()
        dy, size = gradient.numpy(), n.shape[2]
        r, z = rz[..., :size], rz[..., size:]
        # All that does not wait for the step after it, for the whole sequence at once.
        to_n = (1 - z) * (1 - n * n)
        to_z = (h[:-1] - n) * z * (1 - z)
        to_r = hn * r * (1 - r)
        dx, dh_gates = np.empty((*n.shape[:2], 3 * size), np.float32), np.empty((*n.shape[:2], 3 * size), np.float32)
        dh = np.zeros_like(dy[0])
        for t in reversed(range(len(dy))):
            dh = dh + dy[t]
            dn = dh * to_n[t]
            dx[t, :, 2 * size :] = dn
            dx[t, :, :size] = dn * to_r[t]
            dx[t, :, size : 2 * size] = dh * to_z[t]
            dh_gates[t] = dx[t]
            dh_gates[t, :, 2 * size :] *= r[t]
            dh = dh * z[t] + dh_gates[t] @ w
        flat = dh_gates.reshape(-1, 3 * size)
        dw = flat.T @ h[:-1].reshape(-1, size)
        return tuple(map(torch.from_numpy, (dx, dh, dw, flat.sum(0))))


class GRUCore(nn.GRU):
    """`nn.GRU`, faster on a CPU."""

    def forward(self, x: torch.Tensor, h: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:  # type: ignore[override]
        """Sequences `(L, S, n)` and states `(layers, S, size)`; as `nn.GRU`."""
        if x.device.type != "cpu" or x.dtype != torch.float32 or self.bidirectional:
            return super().forward(x, h)
        if h is None:
            h = x.new_zeros(self.num_layers, x.shape[1], self.hidden_size)
        last = []
        for k in range(self.num_layers):
            w_x, w_h, b_x, b_h = (getattr(self, f"{n}_l{k}") for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
            x = F.dropout(x, self.dropout, self.training) if k else x
            x = GRULayer.apply(F.linear(x, w_x, b_x), h[k], w_h, b_h)
            last.append(x[-1])
        return x, torch.stack(last)


class GRU(Recurrent):
    """The gated recurrent unit (Cho et al., 2014)."""

    name = "gru"
    core_class = GRUCore
    cell = staticmethod(gru_cell)


class JordanCore(nn.Module):
    """The network's output y is kept and read back: h = tanh(W x + U y + b), y = tanh(V h + c), in each layer."""

    def __init__(self, in_features: int, size: int, num_layers: int, dropout: float, bidirectional: bool) -> None:
        super().__init__()
        if bidirectional:
            raise UserError("the Jordan network runs in one direction; leave out --bidirectional or take --rnn elman")
        self.dropout = nn.Dropout(dropout)
        self.inputs = nn.ModuleList(nn.Linear(size if k else in_features, size) for k in range(num_layers))
        self.feedback = nn.ModuleList(nn.Linear(size, size, bias=False) for _ in range(num_layers))
        self.outputs = nn.ModuleList(nn.Linear(size, size) for _ in range(num_layers))

    def forward(self, x: torch.Tensor, y: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Sequences `(L, S, n)` and last outputs `(layers, S, size)`; as `nn.RNN`."""
        last = []
        for k, (read, feed, write) in enumerate(zip(self.inputs, self.feedback, self.outputs, strict=True)):
            x = read(self.dropout(x) if k else x)
            out = x.new_zeros(x.shape[1:]) if y is None else y[k]
            steps = []
            for step in x:
                out = torch.tanh(write(torch.tanh(step + feed(out))))
                steps.append(out)
            x = torch.stack(steps)
            last.append(out)
        return x, torch.stack(last)


class RNN(Recurrent):
    """A simple recurrent network: its hidden layer is fed back what it put out (Elman, 1990) or the output (Jordan)."""

    name = "rnn"
    core_class: Any = nn.RNN
    cell = staticmethod(elman_cell)

    def __init__(self, config: BackboneConfig, space: gym.Space) -> None:
        if config.rnn == "jordan":
            self.core_class = JordanCore
        super().__init__(config, space)

    def step_as_numpy(self) -> NumpyStep:
        jordan = self.config.rnn == "jordan"
        return SequenceBackbone.step_as_numpy(self) if jordan else super().step_as_numpy()

"""What attacks are made on: something that gives outputs for inputs, with bounds, and is left as it was found."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from typing import Any, Self

import gymnasium as gym
import numpy as np
import torch
from torch import nn

from rltool.agents.policy import Policy
from rltool.agents.sequences import Sequences
from rltool.attacks.losses import Objective
from rltool.attacks.pullback import Pullback, hooked, make_pullback
from rltool.errors import UserError
from rltool.networks.backbone import device_of
from rltool.networks.mlp import MLP
from rltool.networks.observations import as_tensors, channels_last
from rltool.trees import Tree, first_leaf, map_tree

TOGETHER = 4_096  # Samples that a victim is shown at once, where no gradients are taken.
Bounds = tuple[float | np.ndarray | torch.Tensor, float | np.ndarray | torch.Tensor]


class NoGradient(UserError):
    """The victim's outputs do not depend on its inputs in a way that can be differentiated."""

    def __init__(self) -> None:
        super().__init__("the victim gives no gradients; attack it with one that needs none: square")


class Victim:
    """A network that is attacked.

    Bounds and normalization belong to it: what it is given are raw inputs, what normalizes them is inside `module`.

    Args:
        module: Maps inputs `(B, ...)` to logits `(B, K)`; a function will do if it needs no evaluation mode.
        bounds: Smallest and largest inputs, numbers or one for each feature; infinite where there are none.
        probabilities: Whether the outputs are probabilities; their logarithms are taken then.
        std: Standard deviation of each feature, the unit that epsilon may be given in.
        integers: Whether inputs are whole numbers, as the bytes of an image are.
        tolerance: For outputs that are means of continuous actions, not logits: the change of each that counts as an
            attack's success, `(K,)`.

    Attributes:
        n_forward: Batches that it was shown so far.
        n_backward: Batches that gradients were taken of.
        channels_last: Whether inputs are images `(B, height, width, channels)`.
        critic: What estimates values `(B, 1)`, a victim like this one, where an agent has that.
        state: Of a policy with memory, its state before each of the samples; a tree of `(B, ...)` tensors.
        movable: Which features may be changed at all, broadcasting to a sample; None: all.

    Raises:
        UserError: A lower bound is not below its upper bound.

    Example:
        >>> victim = Victim(nn.Linear(6, 3), bounds=(0, 1))
        >>> victim.logits(torch.rand(8, 6)).shape
        torch.Size([8, 3])
    """

    def __init__(
        self,
        module: nn.Module | Callable[[torch.Tensor], torch.Tensor],
        bounds: Bounds = (-np.inf, np.inf),
        *,
        probabilities: bool = False,
        std: torch.Tensor | None = None,
        integers: bool = False,
        tolerance: torch.Tensor | None = None,
    ) -> None:
        self.module = module
        self.low, self.high = (torch.as_tensor(bound, dtype=torch.float32) for bound in bounds)
        if not bool((self.low < self.high).all()):
            raise UserError(f"the bounds are {bounds[0]} to {bounds[1]}; each lower one must be below its upper one")
        # Clamping by numbers is faster than by tensors.
        self._limits = (float(self.low), float(self.high)) if self.low.ndim == self.high.ndim == 0 else None
        self.probabilities = probabilities
        self.std = std
        self.integers = integers
        self.tolerance = tolerance
        self.channels_last = False
        self.critic: Victim | None = None
        self.state: Tree = None
        self.movable: torch.Tensor | None = None
        self.counts = [0, 0]
        self._pullback: Pullback | None = None  # Known while it is undisturbed.

    def __getitem__(self, rows: torch.Tensor) -> Victim:
        """What is shown some rows of a batch alone: itself, unless it has a state for each row."""
        if self.state is None:
            return self
        part = copy(self)
        part.state = map_tree(lambda leaf: leaf[rows], self.state)
        part.critic = None if self.critic is None else self.critic[rows]
        return part

    def remember(self, state: Tree) -> None:
        """Let a policy with memory, and its critic, see what comes as the continuation of what they have seen.

        Args:
            state: Their state, as `Agent.predict` returns it.
        """
        self.state = as_tensors(state, self.device)
        if self.critic is not None:
            self.critic.state = self.state

    @property
    def device(self) -> torch.device:
        """Where it lives; a function is taken to live on the CPU."""
        return device_of(self.module) if isinstance(self.module, nn.Module) else torch.device("cpu")

    def around(self, module: nn.Module | Callable[[torch.Tensor], torch.Tensor]) -> Victim:
        """A victim with the same kinds of inputs and outputs, and another module, usually with its own inside."""
        victim = Victim(
            module,
            (self.low, self.high),
            probabilities=self.probabilities,
            std=self.std,
            integers=self.integers,
            tolerance=self.tolerance,
        )
        victim.channels_last = self.channels_last
        return victim

    @property
    def n_forward(self) -> int:
        """Batches that it was shown so far."""
        return self.counts[0]

    @n_forward.setter
    def n_forward(self, count: int) -> None:
        self.counts[0] = count

    @property
    def n_backward(self) -> int:
        """Batches that gradients were taken of."""
        return self.counts[1]

    @n_backward.setter
    def n_backward(self, count: int) -> None:
        self.counts[1] = count

    @classmethod
    def from_agent(cls, agent: Any) -> Self:
        """The policy of an agent: its logits over discrete actions, or the mean of its continuous ones.

        Args:
            agent: An agent with a `policy` that acts in a Discrete or Box space and sees a Box. One with memory needs
                to be told by `remember` what it has seen before, at every timestep.

        Raises:
            UserError: It sees or does something else.
        """
        space, actions, policy = agent.observation_space, agent.action_space, agent.policy
        if not isinstance(space, gym.spaces.Box):
            raise UserError(f"only observations in a Box can be perturbed, not {space}")
        if not isinstance(actions, gym.spaces.Discrete | gym.spaces.Box):
            raise UserError(f"only Discrete and Box actions can be attacked, not {actions}")
        normalizer = policy.normalizer
        std = None if normalizer is None else (normalizer.var + normalizer.epsilon).sqrt().float()
        victim = cls(_Outputs(policy), _wide(space), std=std, integers=_integers(space), tolerance=_tolerance(actions))
        victim.channels_last = len(space.shape) == 3 and channels_last(space)
        if getattr(agent, "has_critic", True):
            victim.critic = cls(_Values(policy), _wide(space), std=std, tolerance=torch.ones(1))
            victim.critic.counts = victim.counts
        return victim

    @classmethod
    def from_sb3(cls, model: Any) -> Self:
        """The policy of a model of Stable-Baselines3 in memory; for a `.zip`, `Victim.from_agent(load_sb3(path))`.

        Observations are those that its policy sees: those of `VecNormalize`, where that is around the environment.

        Raises:
            UserError: It has no distribution over Discrete or Box actions.
        """
        space, actions, policy = model.observation_space, model.action_space, model.policy
        if not isinstance(space, gym.spaces.Box) or not isinstance(actions, gym.spaces.Discrete | gym.spaces.Box):
            raise UserError(
                f"only Box observations and Discrete or Box actions can be attacked, not {space}, {actions}"
            )
        if not hasattr(policy, "get_distribution"):
            raise UserError(f"{type(model).__name__} has no action distribution; attack an A2C or PPO model")
        return cls(_SB3Outputs(policy), _wide(space), integers=_integers(space), tolerance=_tolerance(actions))

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """Outputs `(B, K)` for inputs `(B, ...)`, differentiable."""
        self.n_forward += 1
        if (fast := self._pullback_of(x)) is not None and not torch.is_grad_enabled():
            return torch.from_numpy(fast(x.numpy())[0])
        outputs = self.raw(x)
        return outputs.clamp_min(1e-30).log() if self.probabilities else outputs

    def raw(self, x: torch.Tensor) -> torch.Tensor:
        """What its module gives for inputs `(B, ...)`, uncounted."""
        return self.module(x) if self.state is None else self.module(x, self.state)  # type: ignore[call-arg]

    def gradient(self, x: torch.Tensor, objective: Objective) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Outputs `(B, K)`, losses `(B,)`, and the gradient `(B, ...)` of each sample's loss.

        No gradient is left in the victim's parameters.

        Raises:
            NoGradient: There is none.
        """
        x, pull = x.detach(), None
        if (fast := self._pullback_of(x)) is not None:
            outputs, pull = fast(x.numpy())
            x = torch.from_numpy(outputs)
            self.n_forward += 1
        x.requires_grad_()
        with torch.enable_grad():
            logits = self.logits(x) if pull is None else x
            losses = objective(logits)
            if not losses.requires_grad:
                raise NoGradient
            self.n_backward += 1
            (gradient,) = torch.autograd.grad(losses, x, torch.ones_like(losses), allow_unused=True)
        if gradient is None:
            raise NoGradient
        if pull is not None:
            gradient = torch.from_numpy(pull(gradient.numpy()))
        return logits.detach(), losses.detach(), gradient

    def _pullback_of(self, x: torch.Tensor) -> Pullback | None:
        """The fast way, where there is one for such inputs."""
        if self._pullback is None or x.dtype is not torch.float32 or x.device.type != "cpu":
            return None
        return self._pullback if x.shape[1:] == self.module.policy.observation_space.shape else None  # type: ignore[union-attr]

    def jacobian(self, x: torch.Tensor, classes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Outputs `(B, K)` and the gradients `(B, C, ...)` of some of them.

        Args:
            x: Inputs `(B, ...)`.
            classes: Which outputs of each sample, `(B, C)`.

        Raises:
            NoGradient: There is none.
        """
        x = x.detach().requires_grad_()
        with torch.enable_grad():
            logits = self.logits(x)
            chosen = logits.gather(1, classes).sum(0)
            if not chosen.requires_grad:
                raise NoGradient
            self.n_backward += len(chosen)
            rows = [torch.autograd.grad(each, x, retain_graph=True, allow_unused=True)[0] for each in chosen]
        if any(row is None for row in rows):
            raise NoGradient
        return logits.detach(), torch.stack(rows, 1)

    def clip(self, x: torch.Tensor) -> torch.Tensor:
        """Inputs within the bounds."""
        if self._limits is not None:
            return x.clamp(*self._limits)
        return x.clamp(self.low.to(x), self.high.to(x))

    def to_channels_first(self, x: torch.Tensor) -> torch.Tensor:
        """Images `(B, channels, height, width)`, of inputs whose channels may come last; others as they are."""
        return x.movedim(-1, 1) if self.channels_last else x

    def from_channels_first(self, x: torch.Tensor) -> torch.Tensor:
        """The way back."""
        return x.movedim(1, -1) if self.channels_last else x

    def split(self, observations: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Observations within the bounds, and how far they lay outside, which environments do not always keep to."""
        x = torch.from_numpy(observations.astype(np.float32))
        inside = self.clip(x)
        return inside, x - inside

    def admissible(self, x: torch.Tensor, x_adv: torch.Tensor) -> torch.Tensor:
        """Attacked inputs as the victim can be shown them: within the bounds, and whole numbers where it needs such.

        Perturbations are rounded towards 0, so that none becomes larger.
        """
        x_adv = self.clip(x_adv)
        if self.movable is not None:
            x_adv = torch.where(self.movable, x_adv, x)
        return x + ((x_adv - x) * (1 + 1e-6)).trunc() if self.integers else x_adv

    @contextmanager
    def undisturbed(self) -> Iterator[None]:
        """Evaluation mode inside, where weights must not change; every module comes out in the mode that it was in."""
        modules = self.module.modules() if isinstance(self.module, nn.Module) else ()
        training = [module for module in modules if module.training]
        before = self._pullback
        try:
            for module in training:
                module.training = False
            if isinstance(self.module, _Outputs) and before is None:
                self._pullback = self.module.pullback()
            yield
        finally:
            self._pullback = before
            for module in training:
                module.training = True

    def check(self, x: torch.Tensor) -> torch.Tensor:
        """See that inputs are within the bounds, and outputs are such as an attack can use; returns the outputs.

        Raises:
            UserError: They are not.
        """
        if not isinstance(x, torch.Tensor) or not x.is_floating_point() or not bool(x.isfinite().all()):
            raise UserError("x must be a tensor that holds finite floating-point numbers")
        if self._limits is None:
            self._check_bounds(x)
        if not torch.equal(self.clip(x), x):
            raise UserError(
                f"x goes from {x.min():g} to {x.max():g}, outside the victim's bounds; "
                "scale it, or give the victim other bounds"
            )
        outputs = self._answers(x)
        if not isinstance(outputs, torch.Tensor):
            raise UserError(f"the victim gives a {type(outputs).__name__}; it must give a tensor (B, K) of logits")
        if outputs.ndim != 2 or len(outputs) != len(x):
            raise UserError(f"the victim gives {tuple(outputs.shape)} for {len(x)} samples; it must give (B, K) logits")
        if not bool(outputs.isfinite().all()):
            raise UserError("the victim's outputs are not finite numbers; mend it before it is attacked")
        if self.tolerance is not None or self.probabilities:
            return outputs
        if outputs.shape[1] < 2:
            raise UserError("the victim has a single logit; give it one for each class")
        sums = outputs.sum(1)
        if bool((outputs >= 0).all()) and torch.allclose(sums, torch.ones_like(sums), atol=1e-5):
            raise UserError(
                "the victim gives probabilities, whose gradients vanish where it is sure; "
                "let it give logits, or say Victim(..., probabilities=True)"
            )
        return outputs

    def _check_bounds(self, x: torch.Tensor) -> None:
        shape = x.shape[1:]
        try:
            fit = np.broadcast_shapes(self.low.shape, self.high.shape, shape) == shape
        except ValueError:
            fit = False
        if not fit:
            raise UserError(
                f"the victim's bounds have the shapes {tuple(self.low.shape)} and {tuple(self.high.shape)}, a sample "
                f"{tuple(shape)}; give numbers, or one for each feature"
            )

    @torch.no_grad()
    def _answers(self, x: torch.Tensor) -> Any:
        """Outputs for any number of inputs, which are shown in batches of `TOGETHER`."""
        try:
            if len(x) <= TOGETHER:
                return self.logits(x)
            rows = torch.arange(len(x), device=x.device)
            return torch.cat([self[some].logits(x[some]) for some in rows.split(TOGETHER)])
        except RuntimeError as error:
            reason = str(error).partition("\n")[0]
            raise UserError(f"the victim cannot read inputs of the shape {tuple(x.shape)}: {reason}") from error


class _Outputs(nn.Module):
    """Logits, or means, of an agent's policy."""

    def __init__(self, policy: nn.Module) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, observations: torch.Tensor, state: Tree = None) -> torch.Tensor:
        distribution = self.policy.distribution(observations, _after(self.policy, state))  # type: ignore[operator]
        return distribution.logits if hasattr(distribution, "logits") else distribution.mode()

    def pullback(self) -> Pullback | None:
        """The same, and its gradient, in NumPy: of a policy that is a chain of plain layers for vectors, on the CPU."""
        policy: Any = self.policy
        if type(policy) is not Policy or type(policy.backbone) is not MLP:
            return None
        if any(p.dtype is not torch.float32 or p.device.type != "cpu" for p in policy.parameters()):
            return None
        if any(map(hooked, (policy, policy.backbone, policy.backbone.layers, policy.action_head))):
            return None
        space, head = policy.observation_space, getattr(policy.action_head, "linear", None)
        if head is None or len(space.shape or ()) != 1 or not np.issubdtype(space.dtype, np.floating):
            return None
        return make_pullback([*filter(None, [policy.normalizer]), *policy.backbone.layers, head])


class _Values(nn.Module):
    """What an agent's critic says, `(B, 1)`."""

    def __init__(self, policy: nn.Module) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, observations: torch.Tensor, state: Tree = None) -> torch.Tensor:
        return self.policy.values(observations, _after(self.policy, state))[:, None]  # type: ignore[operator]


def _after(policy: Any, state: Tree) -> Sequences | None:
    """Sequences of one step each, that go on from states; None for a policy without memory.

    Raises:
        UserError: There are no states, but a memory.
    """
    if state is None:
        if policy.has_memory:
            raise UserError("a policy with memory is no victim by itself: attack it while it plays")
        return None
    rows = torch.arange(len(first_leaf(state)), device=first_leaf(state).device)
    return Sequences(rows[None], torch.ones_like(rows[None], dtype=torch.bool), rows, state)


class _SB3Outputs(nn.Module):
    """The same of a policy of Stable-Baselines3."""

    def __init__(self, policy: nn.Module) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        distribution = self.policy.get_distribution(observations).distribution  # type: ignore[operator]
        return distribution.logits if hasattr(distribution, "logits") else distribution.mean


def _integers(space: gym.spaces.Box) -> bool:
    return np.issubdtype(space.dtype, np.integer)


def _tolerance(actions: gym.Space) -> torch.Tensor | None:
    """A tenth of the range of continuous actions; 0.1, where that is infinite."""
    if not isinstance(actions, gym.spaces.Box):
        return None
    width = (actions.high.astype(np.float64) - actions.low).ravel()
    return torch.as_tensor(np.where(np.isfinite(width), width / 10, 0.1), dtype=torch.float32)


def _wide(space: gym.spaces.Box) -> Bounds:
    """A space's bounds; none where they are so far away that they only stand for infinity."""
    low, high = (bound.astype(np.float32) for bound in (space.low, space.high))
    return np.where(low < -1e30, -np.inf, low), np.where(high > 1e30, np.inf, high)

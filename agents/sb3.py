"""Agents that Stable-Baselines3 saved, as agents of this toolkit, without running anything that their files hold.

An SB3 `.zip` keeps its weights in `policy.pth`, which PyTorch reads as tensors and nothing else, and the rest in a JSON
file, `data`. Spaces and options stand there twice: pickled (`:serialized:`) and as text for human readers. A pickle is
a program, and one from a stranger may do anything; it also names classes that may be gone (`gym`). So the text is
read, the architecture follows from the names and shapes of the weights, and no pickle is ever opened. `vecnormalize.py`
reads the observation statistics that may lie beside the zip in the same spirit.
"""

from __future__ import annotations

import io
import json
import math
import re
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import gymnasium as gym
import numpy as np
import torch
from torch import nn

from rltool.agents.agent import Agent
from rltool.agents.config import PolicyConfig
from rltool.agents.policy import Policy
from rltool.agents.sb3_networks import GreedyHead, GreedyValue, NatureCNN, NoValue
from rltool.agents.vecnormalize import find_statistics, read_vecnormalize
from rltool.errors import UserError
from rltool.networks import (
    MLP,
    Backbone,
    Flatten,
    GaussianHead,
    GSDEHead,
    SquashedHead,
    ValueHead,
    build_action_head,
    is_image,
)
from rltool.networks.mlp import ACTIVATIONS
from rltool.training.device import find_device

Tensors = Mapping[str, torch.Tensor]
M = TypeVar("M", bound=nn.Module)
S = TypeVar("S", bound=gym.Space)


class SB3Agent(Agent):
    """An agent read from an SB3 file.

    Attributes:
        config: What the policy is made of, as far as a config can say it.
        env_id: None; the file does not say where the agent was trained.
        notes: Sentences about what was found or decided while reading, for the user.
    """

    env_id: str | None = None

    def __init__(self, policy: Policy, config: PolicyConfig, notes: list[str]) -> None:
        self.policy = policy
        self.config = config
        self.observation_space = policy.observation_space
        self.action_space = policy.action_space
        self.rng = np.random.default_rng(0)
        self.notes = notes

    @property
    def has_critic(self) -> bool:
        return not isinstance(self.policy.value_head, NoValue)

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, Any]:
        """As `Agent.predict`; images may come channels last too, since SB3 puts channels first on its own."""
        shape = self.observation_space.shape or ()
        if is_image(self.observation_space) and np.shape(observation)[-3:] == (*shape[1:], shape[0]) != shape:
            observation = np.moveaxis(observation, -1, -3)
        return super().predict(observation, state, episode_start, deterministic)


def load_sb3(path: str | Path, vecnormalize: str | Path | None = None, device: str = "cpu") -> SB3Agent:
    """Read an agent that Stable-Baselines3 (or sb3-contrib) saved; nothing in its files is executed.

    Reads A2C, PPO, TRPO, DQN, QR-DQN, SAC, TQC, TD3 and DDPG with an `MlpPolicy` or a `CnnPolicy`, from version 1.0 on.
    DQN, TD3 and DDPG act the same way whether or not `deterministic` is asked for: their exploration noise is no part
    of the policy.

    Args:
        path: The `.zip`.
        vecnormalize: Observation statistics that `VecNormalize.save` wrote; by default a `vecnormalize.pkl` beside the
            zip, or in a folder beside it that is named as the environment (the layout of rl-baselines3-zoo).
        device: Where tensors live.

    Returns:
        An agent whose `policy` has the file's weights; its `notes` say whether statistics were found.

    Raises:
        UserError: A file is missing, damaged, no SB3 file, or of a kind that cannot be read.

    Example:
        >>> agent = load_sb3("ppo/CartPole-v1_1/CartPole-v1.zip")  # doctest: +SKIP
        >>> action, _ = agent.predict(observation, deterministic=True)  # doctest: +SKIP
    """
    saved = read_zip(Path(path))
    if saved.module not in READERS:
        raise UserError(
            f"{path} holds a policy from {saved.module}, which cannot be read; what can is the MlpPolicy or CnnPolicy "
            "of A2C, PPO, TRPO, DQN, QR-DQN, SAC, TQC, TD3 and DDPG"
        )
    try:
        policy, config = READERS[saved.module](saved)
    except (AttributeError, KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"the weights in {path} are not those of a policy from {saved.module}: {reason}") from None
    statistics = find_statistics(saved.path) if vecnormalize is None else Path(vecnormalize)
    if statistics is not None:
        policy.normalizer = read_vecnormalize(statistics, policy.observation_space)
        how = "are normalized" if policy.normalizer is not None else "are left as they are (norm_obs is off)"
        saved.notes.append(f"observations {how}, as {statistics} says")
    config = config.model_copy(update={"normalize_observations": policy.normalizer is not None})
    return SB3Agent(policy.to(find_device(device)), config, saved.notes)


# The zip


@dataclass
class Saved:
    """What an SB3 zip holds, as far as it is read.

    Attributes:
        path: The zip.
        module: Where the policy's class is defined; each of SB3's algorithm families has a module of its own.
        options: Arguments of the policy's constructor (`policy_kwargs`); classes are text.
        observation_space: Space of one observation.
        action_space: Space of one action.
        tensors: The policy's weights, by SB3's names.
        notes: What the user should know.
    """

    path: Path
    module: str
    options: dict[str, Any]
    observation_space: gym.Space
    action_space: gym.Space
    tensors: dict[str, torch.Tensor]
    notes: list[str] = field(default_factory=list)

    def part(self, prefix: str) -> dict[str, torch.Tensor]:
        """The tensors whose names begin with a prefix, named without it."""
        return {name.removeprefix(prefix): t for name, t in self.tensors.items() if name.startswith(prefix)}


def read_zip(path: Path) -> Saved:
    """Read weights, spaces and options.

    Raises:
        UserError: The file is missing, damaged, no SB3 file, or its spaces are not supported.
    """
    if not path.is_file():
        raise UserError(f"there is no file {path}")
    try:
        with zipfile.ZipFile(path) as archive:
            members = {name: archive.read(name) for name in {"data", "policy.pth"} & set(archive.namelist())}
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError):
        raise UserError(f"{path} is no zip file, or it is damaged") from None
    if len(members) < 2:
        raise UserError(f"{path} holds no Stable-Baselines3 agent: one has the members 'data' and 'policy.pth'")
    try:
        data = json.loads(members["data"])
        tensors = torch.load(io.BytesIO(members["policy.pth"]), map_location="cpu", weights_only=True)
        return Saved(
            path,
            str(data["policy_class"]["__module__"]),
            dict(data["policy_kwargs"]),
            read_space(data["observation_space"]),
            read_space(data["action_space"]),
            {str(name): tensor.float() for name, tensor in tensors.items()},
        )
    except UserError as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    except Exception as error:  # torch.load promises no particular exceptions
        raise UserError(f"{path} is damaged, or holds more than weights: {type(error).__name__}") from None


def read_space(text: Mapping[str, Any]) -> gym.Space:
    """A space from the text that stands beside its pickle.

    Raises:
        UserError: It is a Dict space, or of another kind that no array holds.
    """
    kind = text[":type:"].rpartition(".")[2].removesuffix("'>")
    if kind == "Discrete":
        return gym.spaces.Discrete(int(text["n"]), start=int(text.get("start", 0)))
    if kind == "MultiBinary":
        return gym.spaces.MultiBinary(text["n"])
    if kind == "MultiDiscrete":
        start = read_counts(text["start"]) if "start" in text else None
        return gym.spaces.MultiDiscrete(read_counts(text["nvec"]), text["dtype"], start=start)
    if kind != "Box":
        raise UserError(
            f"it has a {kind} space, and only Box, Discrete, MultiDiscrete and MultiBinary spaces are supported"
        )
    shape = tuple(text["_shape"] if "_shape" in text else text["shape"])
    dtype = np.dtype(text["dtype"])
    limits = (-np.inf, np.inf) if dtype.kind == "f" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    low, high = (read_bound(text[name], shape, limit) for name, limit in zip(("low", "high"), limits, strict=True))
    return gym.spaces.Box(low.astype(dtype), high.astype(dtype), shape, dtype.type)


def read_counts(text: str) -> np.ndarray:
    """A list of whole numbers from the way NumPy prints it.

    Raises:
        UserError: NumPy left out the middle.
    """
    if "..." in text:
        raise UserError("it has a MultiDiscrete space of so many choices that the file does not say how large each is")
    return np.array([int(word) for word in re.findall(r"-?\d+", text)])


def read_bound(text: str, shape: tuple[int, ...], unknown: float) -> np.ndarray:
    """A bound of a Box from the way NumPy prints it, which leaves out the middle of arrays over 1,000 entries.

    Returns:
        `shape`; filled with `unknown` if numbers are missing and the printed ones differ.
    """
    numbers = [float(word) for word in re.sub(r"[\[\]]", " ", text).split() if word != "..."]
    if "..." not in text:
        return np.array(numbers).reshape(shape)
    return np.full(shape, numbers[0] if len(set(numbers)) == 1 else unknown)


# Policies: one reader per family of weights


def load(module: M, weights: Tensors) -> M:
    """Fill a module with weights; all of them, by name, and no others."""
    module.load_state_dict(dict(weights))
    return module


def linear(weights: Tensors, name: str = "linear") -> dict[str, torch.Tensor]:
    """Weight and bias, renamed to those of a submodule."""
    return {f"{name}.{kind}": tensor for kind, tensor in weights.items()}


def join(extractor: Tensors, *nets: Tensors) -> dict[str, torch.Tensor]:
    """The weights of one of our backbones, from an SB3 features extractor and the networks stacked on it.

    SB3 numbers the layers as we do, each activation taking a number of its own; every further network counts on.
    """
    weights = {name.replace("cnn.", "convolutions.", 1): tensor for name, tensor in extractor.items()}
    first = 0
    for net in nets:
        for name, tensor in net.items():
            index, _, kind = name.partition(".")
            weights[f"layers.{first + int(index)}.{kind}"] = tensor
        first += len(net)  # a linear layer has two tensors, weight and bias, and takes two numbers
    return weights


def split(net: Tensors) -> tuple[Tensors, Tensors]:
    """A network as its hidden layers and its last layer."""
    last = f"{max(int(name.partition('.')[0]) for name in net)}."
    hidden = {name: tensor for name, tensor in net.items() if not name.startswith(last)}
    return hidden, {name.removeprefix(last): tensor for name, tensor in net.items() if name.startswith(last)}


def hidden_sizes(weights: Tensors) -> tuple[int, ...]:
    """Widths of a backbone's hidden layers, in order."""
    sizes = {int(n.split(".")[1]): len(t) for n, t in weights.items() if re.fullmatch(r"layers\.\d+\.weight", n)}
    return tuple(sizes[index] for index in sorted(sizes))


def make_config(saved: Saved, weights: Tensors, activation: str, **options: Any) -> PolicyConfig:
    """The config that describes a policy whose backbone has these weights.

    Args:
        saved: The file.
        weights: The backbone's weights, by our names.
        activation: The family's default.
        **options: Further fields.

    Raises:
        UserError: The file names an activation or a features extractor that is not ours.
    """
    names = {str(cls): name for name, cls in ACTIVATIONS.items()}
    text = saved.options.get("activation_fn", str(ACTIVATIONS[activation]))
    if text not in names:
        raise UserError(f"{saved.path} uses the activation {text}, and only {', '.join(ACTIVATIONS)} are supported")
    extractor = saved.options.get("features_extractor_class", "torch_layers.NatureCNN'>")
    if not extractor.endswith(("torch_layers.NatureCNN'>", "torch_layers.FlattenExtractor'>")):
        raise UserError(f"{saved.path} has a features extractor of its own, {extractor}, which cannot be read")
    return PolicyConfig(
        backbone="cnn" if "linear.0.weight" in weights else "mlp",
        hidden_sizes=hidden_sizes(weights),
        activation=names[text],
        init="default",
        **options,
    )


def make_backbone(saved: Saved, config: PolicyConfig, weights: Tensors) -> Backbone:
    """The backbone that has these weights; its sizes are theirs, not the config's."""
    config = config.model_copy(update={"hidden_sizes": hidden_sizes(weights)})
    space, scaled = saved.observation_space, saved.options.get("normalize_images", True)
    if config.backbone == "cnn":
        return load(NatureCNN(config, space, len(weights["linear.0.weight"]), scaled), weights)
    mlp = MLP(config, space)
    mlp.flatten = Flatten(space, scale_bytes=is_image(space) and scaled)  # SB3 leaves bytes that are no image.
    return load(mlp, weights)


def spread(saved: Saved, log_std: torch.Tensor) -> torch.Tensor:
    """Logarithm of the standard deviation as our heads keep it.

    With gSDE, `full_std=False` stores one column for all actions, and `use_expln=True` a number whose exponential
    is replaced by 1 + log(1 + x) above zero.
    """
    if saved.options.get("use_expln", False):
        log_std = torch.where(log_std > 0, torch.log1p(torch.log1p(log_std.clamp(min=0) + 1e-6)), log_std)
    return log_std if log_std.ndim == 1 else log_std.expand(-1, math.prod(saved.action_space.shape or ()))


def check_names(saved: Saved, *prefixes: str) -> None:
    """Refuse weights that a reader would overlook."""
    unknown = [name for name in saved.tensors if not name.startswith(prefixes)]
    if unknown:
        raise ValueError(f"{unknown[0]} is unknown")


def read_actor_critic(saved: Saved) -> tuple[Policy, PolicyConfig]:
    """A2C, PPO and TRPO: `ActorCriticPolicy`."""
    shared_net, policy_net, value_net = (saved.part(f"mlp_extractor.{n}_net.") for n in ("shared", "policy", "value"))
    extractor, value_extractor = saved.part("features_extractor."), saved.part("vf_features_extractor.")
    check_names(
        saved,
        *(f"mlp_extractor.{n}_net." for n in ("shared", "policy", "value")),
        *(f"{n}features_extractor." for n in ("", "pi_", "vf_")),
        *("action_net.", "value_net.", "log_std"),
    )
    if saved.options.get("share_features_extractor", True):
        value_extractor = extractor
    weights, value_weights = join(extractor, shared_net, policy_net), join(value_extractor, shared_net, value_net)
    shared = value_extractor is extractor and not policy_net and not value_net
    if not shared and (shared_net or (extractor and value_extractor is extractor)):
        saved.notes.append("policy and value shared their first layers; here each has a copy of its own")
    log_std = saved.tensors.get("log_std")
    gsde = log_std is not None and log_std.ndim == 2
    squash = bool(saved.options.get("squash_output", False))
    std = "gsde" if gsde else "independent"
    config = make_config(saved, weights, "tanh", shared=shared, action_std=std, squash=squash)
    # `Policy` builds policy and value alike; here each part is as large as its weights.
    policy = Policy(saved.observation_space, saved.action_space, config)
    policy.backbone = make_backbone(saved, config, weights)
    policy.value_backbone = None if shared else make_backbone(saved, config, value_weights)
    features = policy.backbone.out_features
    policy.action_head = build_action_head(saved.action_space, features, std=config.action_std, squash=squash)
    head_weights = linear(saved.part("action_net."))
    if log_std is not None:
        head_weights["log_std"] = spread(saved, log_std)
    load(policy.action_head.inner if isinstance(policy.action_head, SquashedHead) else policy.action_head, head_weights)
    critic = policy.value_backbone or policy.backbone
    policy.value_head = load(ValueHead(critic.out_features), linear(saved.part("value_net.")))
    return policy, config


def read_q_network(name: str, saved: Saved) -> tuple[Policy, PolicyConfig]:
    """DQN (`q_net`) and QR-DQN (`quantile_net`): a policy that is greedy in the action values."""
    check_names(saved, f"{name}.{name}.", f"{name}.features_extractor.", f"{name}_target.")
    n = int(require(saved.action_space, gym.spaces.Discrete).n)
    hidden, last = split(saved.part(f"{name}.{name}."))
    # An action's value is the mean of its quantiles. DQN has one "quantile"; the layer is linear, so its mean is too.
    last = {kind: tensor.reshape(-1, n, *tensor.shape[1:]).mean(0) for kind, tensor in last.items()}
    weights = join(saved.part(f"{name}.features_extractor."), hidden)
    config = make_config(saved, weights, "relu", shared=True)
    policy = Policy(saved.observation_space, saved.action_space, config)
    policy.backbone = make_backbone(saved, config, weights)
    policy.action_head = load(GreedyHead(policy.backbone.out_features, n), linear(last))
    policy.value_head = load(GreedyValue(policy.backbone.out_features, n), linear(last))
    return policy, config


def read_squashed_gaussian(saved: Saved) -> tuple[Policy, PolicyConfig]:
    """SAC and TQC: a Gaussian squashed by tanh."""
    check_names(saved, "actor.features_extractor.", "actor.latent_pi.", "actor.mu.", "actor.log_std", "critic")
    log_std = saved.tensors.get("actor.log_std")  # a tensor with gSDE, else a layer
    weights = join(saved.part("actor.features_extractor."), saved.part("actor.latent_pi."))
    std = "dependent" if log_std is None else "gsde"
    config = make_config(saved, weights, "relu", shared=True, action_std=std, squash=True)
    backbone = make_backbone(saved, config, weights)
    space, clip_mean = require(saved.action_space, gym.spaces.Box), math.inf
    n = math.prod(space.shape)
    mean = saved.part("actor.mu.")
    inner: GaussianHead | GSDEHead
    if log_std is None:
        spread_layer = linear(saved.part("actor.log_std."), "log_std_linear")
        inner = GaussianHead(backbone.out_features, n, dependent=True)
        load(inner, linear(mean) | spread_layer | {"log_std": torch.zeros(n)})
    else:
        if "0.weight" in mean:  # mu and a Hardtanh
            mean, clip_mean = saved.part("actor.mu.0."), float(saved.options.get("clip_mean", 2.0))
        inner = GSDEHead(backbone.out_features, n)
        load(inner, linear(mean) | {"log_std": spread(saved, log_std)})
    return squashed_policy(saved, config, backbone, SquashedHead(inner, space, clip_mean)), config


def read_deterministic(saved: Saved) -> tuple[Policy, PolicyConfig]:
    """TD3 and DDPG: one action, squashed by tanh."""
    check_names(saved, "actor.features_extractor.", "actor.mu.", "actor_target.", "critic")
    hidden, last = split(saved.part("actor.mu."))
    weights = join(saved.part("actor.features_extractor."), hidden)
    config = make_config(saved, weights, "relu", shared=True, squash=True)
    backbone = make_backbone(saved, config, weights)
    space = require(saved.action_space, gym.spaces.Box)
    n = math.prod(space.shape)
    # A Gaussian so narrow (2e-9) that it is one point, as far as 32 bits can tell.
    inner = load(GaussianHead(backbone.out_features, n), linear(last) | {"log_std": torch.full((n,), -20.0)})
    return squashed_policy(saved, config, backbone, SquashedHead(inner, space)), config


def squashed_policy(saved: Saved, config: PolicyConfig, backbone: Backbone, head: SquashedHead) -> Policy:
    """A policy that acts, and has no value."""
    policy = Policy(saved.observation_space, saved.action_space, config)
    policy.backbone, policy.action_head, policy.value_head = backbone, head, NoValue()
    return policy


def require(space: gym.Space, kind: type[S]) -> S:
    """The action space of an algorithm that knows but one kind."""
    if not isinstance(space, kind):
        raise ValueError(f"its actions are {space}, not a {kind.__name__}")
    return space


READERS: dict[str, Callable[[Saved], tuple[Policy, PolicyConfig]]] = {
    "stable_baselines3.common.policies": read_actor_critic,
    "stable_baselines3.dqn.policies": partial(read_q_network, "q_net"),
    "sb3_contrib.qrdqn.policies": partial(read_q_network, "quantile_net"),
    "stable_baselines3.sac.policies": read_squashed_gaussian,
    "sb3_contrib.tqc.policies": read_squashed_gaussian,
    "stable_baselines3.td3.policies": read_deterministic,
}

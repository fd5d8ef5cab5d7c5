"""Gradients in NumPy are those of autograd."""

from collections.abc import Callable
from itertools import pairwise

import gymnasium as gym
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import prune

from rltool.agents import PPO
from rltool.attacks import PGD, Victim
from rltool.attacks.losses import LOSSES
from rltool.attacks.pullback import make_pullback
from rltool.errors import UserError
from rltool.networks.normalization import RunningNorm

CASES = {
    "tanh": ("CartPole-v1", {}),
    "relu": ("CartPole-v1", {"activation": "relu"}),
    "normalized": ("CartPole-v1", {"normalize_observations": True}),
    "linear": ("CartPole-v1", {"hidden_sizes": ()}),
    "continuous": ("Pendulum-v1", {"normalize_observations": True}),
    "gsde": ("Pendulum-v1", {"action_std": "gsde"}),
}
NOT_PLAIN = {
    "elu": ("CartPole-v1", {"activation": "elu"}),
    "layer norm": ("CartPole-v1", {"layer_norm": True}),
    "squashed": ("Pendulum-v1", {"squash": True}),
    "spectral norm": ("CartPole-v1", {"spectral_norm": True}),
}


def agent_of(env_id: str, options: dict) -> PPO:
    agent = PPO(env_id, num_envs=2, num_steps=32, seed=3, **options)
    normalizer = agent.policy.normalizer
    if normalizer is not None:
        normalizer.update(np.random.default_rng(0).normal(0.5, 0.3, (64, *normalizer.mean.shape)))
    with torch.no_grad():
        for parameter in agent.policy.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(parameter))))
    return agent


def inputs_of(victim: Victim, agent: PPO, seed: int = 1) -> torch.Tensor:
    shape = agent.observation_space.shape
    return victim.clip(0.5 + torch.randn(32, *shape, generator=torch.Generator().manual_seed(seed)))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("loss", ["ce", "margin"])
def test_gradients_of_a_plain_policy_are_those_of_autograd(name, loss):
    agent = agent_of(*CASES[name])
    victim = Victim.from_agent(agent)
    x = inputs_of(victim, agent)
    problem = PGD().pose(victim, inputs_of(victim, agent, seed=2))
    expected = victim.gradient(x, problem.objective(loss))
    with victim.undisturbed():
        assert victim._pullback is not None
        found = victim.gradient(x, problem.objective(loss))
        with torch.no_grad():
            outputs = victim.logits(x)
    torch.testing.assert_close(outputs, expected[0])
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert victim._pullback is None


@pytest.mark.parametrize("name", NOT_PLAIN)
def test_other_policies_are_left_to_autograd(name):
    agent = agent_of(*NOT_PLAIN[name])
    victim = Victim.from_agent(agent)
    x = inputs_of(victim, agent)
    with victim.undisturbed():
        assert victim._pullback is None
    assert PGD(epsilon=0.5, steps=5)(victim, x).x_adv.shape == x.shape


def test_bytes_are_left_to_autograd():
    agent = agent_of("CartPole-v1", {})
    agent.policy.observation_space = gym.spaces.Box(0, 255, (4,), np.uint8)
    with (victim := Victim.from_agent(agent)).undisturbed():
        assert victim._pullback is None


def test_an_attack_sees_weights_that_have_changed_since_the_last_one():
    agent = agent_of("CartPole-v1", {"normalize_observations": True})
    victim = Victim.from_agent(agent)
    x = inputs_of(victim, agent)
    PGD(epsilon=0.1, steps=2)(victim, x)
    with torch.no_grad():
        agent.policy.action_head.linear.weight.neg_()
    agent.policy.normalizer.update(np.full((64, 4), 3.0))
    with torch.no_grad():
        expected = victim.logits(x)
    with victim.undisturbed(), torch.no_grad():
        torch.testing.assert_close(victim.logits(x), expected)


def test_what_is_more_than_its_layers_is_left_to_autograd() -> None:
    def fast(change: Callable[[PPO], object]) -> bool:
        agent = agent_of("CartPole-v1", {})
        change(agent)
        with (victim := Victim.from_agent(agent)).undisturbed():
            return victim._pullback is not None

    assert fast(lambda agent: None)
    assert not fast(lambda agent: agent.policy.backbone.layers[0].register_forward_hook(lambda *_: None))
    assert not fast(lambda agent: agent.policy.register_forward_pre_hook(lambda *_: None))
    assert not fast(lambda agent: prune.l1_unstructured(agent.policy.action_head.linear, "weight", 1))
    assert not fast(lambda agent: agent.policy.double())
    assert not fast(lambda agent: agent.policy.bfloat16())
    assert make_pullback([nn.Linear(2, 2, bias=False)]) is None


def test_inputs_that_do_not_fit_get_the_same_sentence_as_elsewhere() -> None:
    victim = Victim.from_agent(agent_of("CartPole-v1", {}))
    with pytest.raises(UserError, match="cannot read inputs"):
        PGD()(Victim(victim.module, (-10, 10)), torch.zeros(4, 5))
    x = torch.zeros(4, 4, dtype=torch.float64)
    assert PGD(epsilon=0.1, steps=2)(victim, x).x_adv.dtype == torch.float64


def test_an_attack_within_leaves_what_is_around_it_fast() -> None:
    agent = agent_of("CartPole-v1", {})
    victim = Victim.from_agent(agent)
    with victim.undisturbed():
        PGD(steps=1)(victim, inputs_of(victim, agent))
        assert victim._pullback is not None
    assert victim._pullback is None


def test_a_victim_that_fails_under_attack_has_its_modes_back():
    agent = agent_of("CartPole-v1", {})
    victim = Victim.from_agent(agent)
    agent.policy.train()
    with pytest.raises(ZeroDivisionError), victim.undisturbed():
        raise ZeroDivisionError
    assert victim._pullback is None
    assert all(module.training for module in agent.policy.modules())


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 9), min_size=2, max_size=4),
    activation=st.sampled_from([nn.Tanh, nn.ReLU]),
    clip=st.floats(0.1, 3.0),
    seed=st.integers(0, 1_000),
)
def test_any_chain_of_layers(sizes, activation, clip, seed):
    torch.manual_seed(seed)
    norm = RunningNorm((sizes[0],), clip=clip)
    norm.update(np.random.default_rng(seed).normal(1, 2, (50, sizes[0])))
    layers: list[nn.Module] = [norm]
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after), activation()]
    x = torch.randn(7, sizes[0], requires_grad=True)
    outputs = nn.Sequential(*layers)(x)
    weights = torch.randn_like(outputs)
    (expected,) = torch.autograd.grad((outputs * weights).sum(), x)
    ours, pull = make_pullback(layers)(x.detach().numpy())
    np.testing.assert_allclose(ours, outputs.detach(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(pull(weights.numpy()), expected, rtol=1e-3, atol=1e-4)


def test_the_margins_gradient_is_between_two_classes():
    logits = torch.tensor([[1.0, 3.0, 2.0], [0.0, -1.0, 5.0]], requires_grad=True)
    margins = LOSSES["margin"](logits, torch.tensor([0, 2]))
    assert margins.tolist() == [2.0, -5.0]
    (gradient,) = torch.autograd.grad(margins.sum(), logits)
    assert gradient.tolist() == [[-1.0, 1.0, 0.0], [1.0, 0.0, -1.0]]

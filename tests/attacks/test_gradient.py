"""Gradient attacks: closed forms on a linear victim, the textbook's loop bit for bit, properties, and bad input."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from rltool.agents import A2C, PPO
from rltool.attacks import FGSM, IFGSM, MIFGSM, PGD, RandomNoise, Victim
from rltool.attacks.attack import generator
from rltool.attacks.losses import LOSSES
from rltool.attacks.norms import Ball, Norm
from rltool.errors import UserError

ATTACKS = [FGSM, IFGSM, MIFGSM, PGD]
NORMS: list[Norm] = ["linf", "l2", "l1"]


@pytest.fixture
def conv() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(200, 5),
    )


@pytest.fixture
def images() -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    x = torch.rand(16, 1, 12, 12, generator=draw)
    x = torch.where(x < 0.2, 0.0, torch.where(x > 0.8, 1.0, x))  # Some pixels on the bounds.
    return x, torch.randint(5, (16,), generator=draw)


def linear(weights: torch.Tensor) -> nn.Module:
    """A victim of two classes whose second logit is w x and whose first is 0."""
    layer = nn.Linear(weights.numel(), 2, bias=False)
    layer.weight.data = torch.stack((torch.zeros_like(weights), weights))
    return layer


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize(("norm", "dual"), [("linf", 1), ("l2", 2), ("l1", float("inf"))])
def test_optimum_on_a_linear_victim(attack: type, norm: Norm, dual: float) -> None:
    weights = torch.tensor([3.0, -2.0, 0.5, 0.1])
    x = torch.zeros(1, 4)
    options = {"loss": "margin", "norm": norm, "epsilon": 0.5}
    if attack is PGD:
        options["keep"], options["skip_broken"] = "last", False
    result = attack(**options)(Victim(linear(weights)), x, torch.zeros(1, dtype=torch.long))
    gained = float(result.x_adv @ weights)
    # From a random start, PGD is still on its way around the round balls at the end.
    exact = attack is not PGD or norm == "linf"
    assert gained == pytest.approx(0.5 * float(weights.norm(dual)), rel=1e-4 if exact else 0.03)
    assert float(result.distance) == pytest.approx(0.5, rel=1e-4)
    assert bool(result.success)


def textbook(
    net: nn.Module, x: torch.Tensor, y: torch.Tensor, start: torch.Tensor, steps: int, step: float, epsilon: float
) -> torch.Tensor:
    """PGD in linf as Madry et al. write it, with the batch's mean as the loss."""
    now = start
    for _ in range(steps):
        now = now.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(net(now), y), now)
        now = (x + (now + step * gradient.sign() - x).clamp(-epsilon, epsilon)).clamp(0, 1)
    return now.detach()


def test_textbook_form_is_bit_equal(conv: nn.Module, images: tuple[torch.Tensor, torch.Tensor]) -> None:
    x, y = images
    victim = Victim(conv, (0, 1))
    assert torch.equal(FGSM(epsilon=0.1)(victim, x, y).x_adv, textbook(conv, x, y, x, 1, 0.1, 0.1))
    iterated = IFGSM(epsilon=0.1, steps=10, step_size=0.02)(victim, x, y).x_adv
    assert torch.equal(iterated, textbook(conv, x, y, x, 10, 0.02, 0.1))
    plain = PGD(epsilon=0.1, steps=10, step_size=0.02, random_start=False, keep="last", skip_broken=False)(
        victim, x, y
    ).x_adv
    assert torch.equal(plain, iterated)
    torch.manual_seed(7)
    start = (x + torch.empty_like(x).uniform_(-0.1, 0.1)).clamp(0, 1)
    random = PGD(epsilon=0.1, steps=10, step_size=0.02, keep="last", skip_broken=False, seed=7)(victim, x, y).x_adv
    assert torch.equal(random, textbook(conv, x, y, start, 10, 0.02, 0.1))


def test_momentum_without_memory_is_the_iterated_method(
    conv: nn.Module, images: tuple[torch.Tensor, torch.Tensor]
) -> None:
    x, y = images
    victim = Victim(conv, (0, 1))
    plain = IFGSM(epsilon=0.1)(victim, x, y).x_adv
    assert torch.equal(MIFGSM(epsilon=0.1, decay=0.0)(victim, x, y).x_adv, plain)
    assert not torch.equal(MIFGSM(epsilon=0.1)(victim, x, y).x_adv, plain)


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("norm", NORMS)
def test_stays_in_ball_and_bounds_and_is_judged_there(
    attack: type, norm: Norm, conv: nn.Module, images: tuple[torch.Tensor, torch.Tensor]
) -> None:
    x, y = images
    epsilon = {"linf": 0.1, "l2": 1.0, "l1": 5.0}[norm]
    result = attack(norm=norm, epsilon=epsilon)(Victim(conv, (0, 1)), x, y)
    assert float(result.distance.max()) <= epsilon * (1 + 1e-5)
    assert float(result.x_adv.min()) >= 0
    assert float(result.x_adv.max()) <= 1
    assert torch.equal(result.success, conv(result.x_adv).argmax(1) != y)


def test_pgd_is_no_weaker_than_its_clean_input_and_than_fewer_starts(
    conv: nn.Module, images: tuple[torch.Tensor, torch.Tensor]
) -> None:
    x, y = images
    victim = Victim(conv, (0, 1))
    wrong = conv(x).argmax(1) != y
    one = PGD(epsilon=0.03, steps=5)(victim, x, y)
    three = PGD(epsilon=0.03, steps=5, restarts=3)(victim, x, y)
    assert bool((one.success | ~wrong).all())
    assert bool((three.success | ~one.success).all())
    assert torch.equal(one.x_adv[wrong], x[wrong])  # What is wrong already needs no perturbation.


def test_samples_do_not_depend_on_each_other(conv: nn.Module, images: tuple[torch.Tensor, torch.Tensor]) -> None:
    x, y = images
    victim = Victim(conv.double(), (0, 1))
    for attack in (FGSM(), IFGSM(), MIFGSM(), PGD(random_start=False), IFGSM(norm="l2"), IFGSM(norm="l1")):
        together = attack(victim, x.double(), y).x_adv
        apart = torch.cat([attack(victim, x[i : i + 1].double(), y[i : i + 1]).x_adv for i in range(len(x))])
        assert torch.allclose(together, apart, atol=1e-9)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_the_first_of_many_get_what_they_get_without_the_others(
    norm: str, conv: nn.Module, images: tuple[torch.Tensor, torch.Tensor]
) -> None:
    x, y = images
    victim, x, few = Victim(conv.double(), (0, 1)), x.double(), len(x) // 2
    for attack in (RandomNoise(norm=norm, epsilon=0.3), PGD(norm=norm, epsilon=0.3, steps=3, restarts=3)):
        assert torch.allclose(attack(victim, x, y).x_adv[:few], attack(victim, x[:few], y[:few]).x_adv, atol=1e-9)


@pytest.mark.parametrize("features", [4, 40])
def test_queries_are_counted_until_a_sample_is_broken(features: int) -> None:
    draw = torch.Generator().manual_seed(0)
    net, x = nn.Linear(features, 3).double(), torch.randn(30, features, generator=draw, dtype=torch.float64)
    victim, attack = Victim(net), PGD(epsilon=0.2, steps=12, random_start=False)
    together = attack(victim, x)
    alone = [attack(victim, each) for each in x.split(1)]
    assert together.n_queries.tolist() == [int(each.n_queries) for each in alone]
    assert torch.allclose(together.x_adv, torch.cat([each.x_adv for each in alone]))
    assert len(set(together.n_queries.tolist())) > 3
    assert int(together.n_queries.max()) == 2 + 12 + 1  # The clean input, every step, what came of the last, the end.


def test_streams_of_a_seed_are_no_other_seeds() -> None:
    def drawn(*of: int) -> float:
        return float(torch.rand(1, generator=generator(of[0], torch.device("cpu"), *of[1:])))

    keys = [(seed, *stream) for seed in range(20) for stream in ((), (0,), (1,), (2,), (0, 1), (1, 0))]
    assert len({drawn(*key) for key in keys}) == len(keys)
    assert drawn(3, 1) == drawn(3, 1)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("features", [1, 2, 30])
def test_draws_fill_the_ball(norm: str, features: int) -> None:
    ball = Ball(norm, 2.0)  # type: ignore[arg-type]
    draws = ball.sample(torch.zeros(4_000, features), torch.Generator().manual_seed(0))
    size = ball.distance(draws)
    assert float(size.max()) <= 2.0 * (1 + 1e-5)
    # Of a uniform draw, the share within a part t of the radius is t to the power of the dimension.
    for part in (0.5, 0.9):
        assert float((size <= 2.0 * part).float().mean()) == pytest.approx(part**features, abs=0.03)
    assert draws.mean(0).abs().max() < 0.12
    assert torch.allclose(draws.std(0), draws.std(0).mean(), rtol=0.1)


@pytest.mark.parametrize("loss", list(LOSSES))
def test_targets_are_reached(loss: str, conv: nn.Module, images: tuple[torch.Tensor, torch.Tensor]) -> None:
    x, _ = images
    y = conv(x).argmax(1)
    target = (y + 1) % 5
    result = PGD(epsilon=0.9, loss=loss)(Victim(conv, (0, 1)), x, y, target)
    # What only sets the target above the label may end at a third class.
    assert float(result.success.float().mean()) >= (0.8 if loss == "away-towards" else 1.0)
    assert torch.equal(result.success, conv(result.x_adv).argmax(1) == target)


@pytest.mark.parametrize("loss", list(LOSSES))
def test_losses_ignore_a_shift_of_the_logits(loss: str) -> None:
    logits = torch.randn(6, 5, dtype=torch.float64)
    y, target = torch.arange(6) % 5, (torch.arange(6) + 2) % 5
    for goal in (None, target):
        assert torch.allclose(LOSSES[loss](logits - 1000, y, goal), LOSSES[loss](logits, y, goal))


def test_queries_are_counted(conv: nn.Module, images: tuple[torch.Tensor, torch.Tensor]) -> None:
    x, _ = images
    y = conv(x).argmax(1)
    victim = Victim(conv, (0, 1))
    result = IFGSM(steps=7)(victim, x, y)
    assert (result.n_forward, result.n_backward) == (9, 7)
    assert bool((result.n_queries == 9).all())
    skipping = PGD(epsilon=0.3, steps=40)(victim, x, y)
    assert int(skipping.n_queries.sum()) < 43 * len(x)
    wrong = PGD()(victim, x, (y + 1) % 5)
    assert bool((wrong.n_queries == 2).all())
    assert wrong.n_backward == 0


def test_the_victim_is_left_as_it_was(images: tuple[torch.Tensor, torch.Tensor]) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(144, 32), nn.BatchNorm1d(32), nn.Dropout(0.5), nn.Linear(32, 5)).train()
    net[2].eval()  # On purpose: its statistics are fixed.
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    x, y = images
    first = PGD(seed=3)(Victim(net, (0, 1)), x, y)
    assert net.training
    assert not net[2].training
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())
    assert torch.equal(first.x_adv, PGD(seed=3)(Victim(net, (0, 1)), x, y).x_adv)  # No dropout, and a seed of its own.


def test_epsilon_for_each_feature() -> None:
    radii = torch.tensor([0.1, 0.0, 0.3])
    weights = torch.tensor([1.0, 1.0, -1.0])
    victim = Victim(linear(weights), std=torch.tensor([1.0, 5.0, 2.0]))
    y = torch.zeros(2, dtype=torch.long)
    delta = FGSM(epsilon=radii)(victim, torch.zeros(2, 3), y).x_adv
    assert torch.allclose(delta, (radii * weights).expand(2, 3), atol=1e-6)
    delta = FGSM(epsilon=0.5, unit="std")(victim, torch.zeros(2, 3), y).x_adv
    assert torch.allclose(delta, torch.tensor([0.5, 2.5, -1.0]).expand(2, 3))


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(NORMS), st.floats(0.01, 10), st.integers(1, 30), st.integers(0, 1_000))
def test_projection(norm: Norm, epsilon: float, features: int, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    delta = 3 * torch.randn(4, features, generator=draw, dtype=torch.float64)
    ball = Ball(norm, epsilon)
    near = ball.project(delta)
    assert bool((ball.distance(near) <= epsilon * (1 + 1e-9)).all())
    assert torch.allclose(ball.project(near), near)
    inside = ball.distance(delta) <= epsilon
    assert torch.allclose(near[inside], delta[inside])
    for other in (ball.sample(delta, draw) for _ in range(5)):  # Nothing else in the ball is nearer.
        assert bool((ball.distance(other) <= epsilon * (1 + 1e-9)).all())
        assert bool(((other - delta).norm(dim=1) >= (near - delta).norm(dim=1) - 1e-9).all())


def test_policies_are_victims() -> None:
    agent = PPO("CartPole-v1", normalize_observations=True)
    agent.policy.observe(np.random.default_rng(0).normal(size=(100, 4)).astype(np.float32))
    victim = Victim.from_agent(agent)
    x = torch.randn(32, 4)
    chosen = torch.from_numpy(agent.predict(x.numpy(), deterministic=True)[0])
    assert torch.equal(victim.logits(x).argmax(1), chosen)
    assert victim.low[0] == pytest.approx(-4.8)
    assert victim.low[1] == -torch.inf
    result = PGD(epsilon=5.0, unit="std", loss="margin")(victim, x.clamp(-0.4, 0.4))
    assert float(result.success.float().mean()) > 0.9

    continuous = Victim.from_agent(A2C("Pendulum-v1"))
    observations = torch.randn(16, 3).clamp(-0.9, 0.9)
    start, attacked = (
        continuous.logits(observations).detach(),
        PGD(epsilon=0.5, skip_broken=False)(continuous, observations),
    )
    moved = (continuous.logits(attacked.x_adv).detach() - start).abs()
    random = observations + (torch.rand(16, 3) - 0.5)
    assert float(moved.mean()) > float((continuous.logits(random).detach() - start).abs().mean())


def test_a_model_of_sb3_is_a_victim() -> None:
    from stable_baselines3 import PPO as SB3PPO

    model = SB3PPO("MlpPolicy", gym.make("CartPole-v1"), device="cpu")
    x = 0.1 * torch.randn(8, 4)
    victim = Victim.from_sb3(model)
    assert torch.equal(victim.logits(x).argmax(1), torch.from_numpy(model.predict(x.numpy(), deterministic=True)[0]))
    assert FGSM()(victim, x).x_adv.shape == x.shape


class Probabilities(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.softmax(torch.stack((x.sum(1), -x.sum(1)), 1), 1)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: FGSM(epsilon=-1.0), "at least 0"),
        (lambda: FGSM(epsilon=float("nan")), "finite"),
        (lambda: FGSM(norm="l0"), "no norm 'l0'"),
        (lambda: FGSM(loss="cee"), "did you mean 'ce'"),
        (lambda: PGD(steps=0), "steps must be above 0"),
        (lambda: PGD(step_size=0.0), "above 0"),
        (lambda: PGD(restarts=2, keep="last", skip_broken=False), "take keep='best'"),
        (lambda: FGSM(unit="std")(Victim(nn.Linear(3, 2)), torch.zeros(1, 3)), "knows no standard deviations"),
        (lambda: FGSM(epsilon=torch.ones(2))(Victim(nn.Linear(3, 2)), torch.zeros(1, 3)), "one for each feature"),
        (lambda: FGSM()(nn.Linear(3, 2), torch.zeros(1, 3)), "Victim(module"),
        (lambda: FGSM()(Victim(nn.Linear(3, 2), (0, 1)), torch.full((1, 3), 2.0)), "outside the victim's bounds"),
        (lambda: FGSM()(Victim(nn.Linear(3, 2)), torch.full((1, 3), torch.nan)), "finite floating-point"),
        (lambda: FGSM()(Victim(nn.Linear(3, 2)), torch.zeros(0, 3)), "x is empty"),
        (lambda: FGSM()(Victim(nn.Linear(3, 2)), torch.zeros(1, 3), torch.tensor([2])), "classes 0 to 1"),
        (lambda: FGSM()(Victim(nn.Linear(3, 2)), torch.zeros(1, 3), torch.tensor([0.5])), "one whole number"),
        (
            lambda: FGSM()(Victim(nn.Linear(3, 2)), torch.zeros(1, 3), torch.tensor([1]), torch.tensor([1])),
            "equal to its label",
        ),
        (lambda: FGSM()(Victim(Probabilities()), torch.randn(4, 3)), "probabilities=True"),
        (lambda: FGSM()(Victim(lambda x: x * torch.nan), torch.zeros(1, 3)), "not finite numbers"),
        (lambda: FGSM()(Victim(lambda x: x.sum()), torch.zeros(1, 3)), r"(B, K) logits"),
        (lambda: FGSM()(Victim(lambda x: torch.ones(len(x), 3)), torch.zeros(2, 3)), "gives no gradients"),
        (lambda: Victim(nn.Linear(3, 2), (1, 0)), "below its upper one"),
    ],
)
def test_bad_input(make: object, sentence: str) -> None:
    with pytest.raises(UserError) as error:
        make()  # type: ignore[operator]
    assert sentence in str(error.value)


def test_probabilities_that_are_said_to_be_such() -> None:
    result = FGSM()(Victim(Probabilities(), probabilities=True), torch.full((4, 3), 0.01))
    assert bool(result.success.all())

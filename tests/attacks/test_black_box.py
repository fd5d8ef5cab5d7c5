"""Attacks that only ask: closed forms on linear victims, budgets, and what each sample depends on."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from rltool.attacks import (
    FGSM,
    IFGSM,
    MIFGSM,
    NES,
    PGD,
    DeepFool,
    HopSkipJump,
    OnePixel,
    RandomNoise,
    SimBA,
    Square,
    Universal,
    Victim,
)
from rltool.attacks.attack import Attack
from rltool.attacks.simba import cosines
from rltool.errors import UserError

Digits = tuple[Victim, torch.Tensor, torch.Tensor]

ASKING = [
    NES(epsilon=0.2, queries=83),
    NES(norm="l2", epsilon=1.0, estimator="spsa", queries=163),
    SimBA(queries=51),
    SimBA(norm="linf", epsilon=0.2, basis="dct", queries=51),
    HopSkipJump(queries=150),
    HopSkipJump(norm="linf", queries=150),
    OnePixel(pixels=2, queries=70, population=30),
    Square(norm="l2", epsilon=1.0, queries=50),
    Square(epsilon=0.2, queries=50),
]


def linear(weights: list[float], bias: float = 0.0) -> nn.Module:
    """Two classes, the second where w x + bias > 0."""
    layer = nn.Linear(len(weights), 2)
    layer.weight.data = torch.tensor([[0.0] * len(weights), weights])
    layer.bias.data = torch.tensor([0.0, bias])
    return layer


def rate(success: torch.Tensor) -> float:
    return float(success.float().mean())


def label(attack: Attack) -> str:
    return f"{type(attack).__name__}-{attack.norm}"


@pytest.mark.parametrize(("norm", "distance"), [("l2", 2 / 5), ("linf", 2 / 7)])
def test_hopskipjump_finds_the_distance_to_a_half_space(norm: str, distance: float) -> None:
    victim = Victim(linear([3.0, -4.0], -2.0))
    result = HopSkipJump(norm=norm, queries=1_500)(victim, torch.zeros(1, 2))
    assert bool(result.success)
    assert distance <= float(result.distance) <= 1.05 * distance


def test_hopskipjump_sees_nothing_but_choices() -> None:
    inner = linear([3.0, -4.0, 1.0], -2.0)
    plain, loud = Victim(inner), Victim(lambda x: inner(x) * 100 + 7)
    x = torch.zeros(2, 3)
    attack = HopSkipJump(queries=200)
    assert torch.equal(attack(plain, x).x_adv, attack(loud, x).x_adv)


def test_hopskipjump_towards_a_target(digits: Digits) -> None:
    victim, x, y = digits
    target = (y + 1) % 10
    result = HopSkipJump(queries=400, starts=x)(victim, x, y, target)
    assert torch.equal(result.success, victim.logits(result.x_adv).argmax(1) == target)
    assert rate(result.success) == 1  # Among the starts there is one of every class.
    reference = torch.stack(
        [(x[y == int(t)] - each).flatten(1).norm(dim=1).min() for each, t in zip(x, target, strict=True)]
    )
    assert bool((result.distance < 0.8 * reference).all())


@pytest.mark.parametrize(
    "attack", [NES(queries=2_000), SimBA(norm="linf", epsilon=0.1), Square(epsilon=0.1)], ids=label
)
def test_linf_optimum_of_a_linear_victim(attack: Attack) -> None:
    weights = [3.0, -2.0, 0.5, 0.4]
    victim = Victim(linear(weights, -10.0))  # Out of reach, so that it goes on to the end.
    result = attack(victim, torch.zeros(1, 4))
    assert not bool(result.success)
    assert float(result.x_adv @ torch.tensor(weights)) == pytest.approx(0.1 * 5.9, rel=1e-4)


@pytest.mark.parametrize(
    "attack",
    [
        NES(norm="l2", queries=4_000, step_size=0.1),
        SimBA(queries=2_000, step_size=0.05),
        Square(norm="l2", epsilon=1.0),
    ],
    ids=label,
)
def test_l2_optimum_of_a_linear_victim(attack: Attack) -> None:
    weights = torch.tensor([3.0, -2.0, 0.5, 0.4])
    victim = Victim(linear(weights.tolist(), -10.0))
    result = attack(victim, torch.zeros(1, 4))
    best = float(result.distance) * float(weights.norm())
    assert best * 0.9 <= float(result.x_adv @ weights) <= best * 1.0001


def test_one_pixel_takes_the_feature_that_counts_most() -> None:
    victim = Victim(linear([1.0, 4.0, -1.0, 2.0], -3.0), (0, 1))
    result = OnePixel()(victim, torch.zeros(1, 4))
    assert bool(result.success)
    assert float(result.distance) == 1
    assert int(result.x_adv.argmax()) == 1
    hard = Victim(linear([1.0, 4.0, -1.0, 2.0], -5.0), (0, 1))
    assert not bool(OnePixel()(hard, torch.zeros(1, 4)).success)  # 4 is less than 5,
    assert bool(OnePixel(pixels=2)(hard, torch.zeros(1, 4)).success)  # 4 + 2 is more.


def test_one_pixel_changes_all_channels_of_so_many_pixels() -> None:
    draw = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(60, 3))
    x = torch.rand(5, 3, 4, 5, generator=draw)
    result = OnePixel(pixels=2, queries=300)(Victim(net, (0, 1)), x)
    moved = (result.x_adv != x).any(1).flatten(1).sum(1)
    assert bool((moved <= 2).all())
    assert bool((result.distance <= 6).all())


@pytest.mark.parametrize("attack", ASKING, ids=label)
def test_budget_bounds_and_ball(attack: Attack, digits: Digits) -> None:
    victim, x, y = digits
    shown = []
    net = victim.module

    def counting(x: torch.Tensor) -> torch.Tensor:
        shown.append(len(x))
        return net(x)

    result = attack(Victim(counting, (0, 1)), x, y)
    assert int(result.n_queries.max()) <= vars(attack)["queries"] + 2  # What is clean, and what comes out.
    assert int(result.n_queries.sum()) == sum(shown)
    assert result.n_backward == 0
    assert float(result.x_adv.min()) >= 0
    assert float(result.x_adv.max()) <= 1
    if hasattr(attack, "epsilon"):
        assert float(result.distance.max()) <= attack.epsilon * (1 + 1e-5)
    assert torch.equal(result.success, net(result.x_adv).argmax(1) != y)
    assert rate(result.success) > rate(RandomNoise(epsilon=0.05)(victim, x, y).success)


@pytest.mark.parametrize("attack", ASKING, ids=label)
def test_a_sample_does_not_depend_on_the_others(attack: Attack, digits: Digits) -> None:
    victim, x, y = digits
    x, y = x[:6], y[:6]
    others = y.clone()
    others[1:] = (y[1:] + 1) % 10  # Wrong already, and left alone.
    together, apart = attack(victim, x, y), attack(victim, x, others)
    assert torch.allclose(together.x_adv[0], apart.x_adv[0], atol=1e-5)
    assert together.n_queries[0] == apart.n_queries[0]
    assert torch.equal(apart.x_adv[1:], x[1:])


@pytest.mark.parametrize("attack", ASKING[:8], ids=label)
def test_a_sample_alone_gets_the_same(attack: Attack, digits: Digits) -> None:
    victim, x, y = digits
    # What is drawn for each sample apart, as the signs of Square are, goes by its place.
    some = slice(0, 3) if isinstance(attack, Square) else slice(3, 4)
    together, alone = attack(victim, x[:6], y[:6]), attack(victim, x[some], y[some])
    assert torch.allclose(together.x_adv[some], alone.x_adv, atol=1e-5)


@pytest.mark.parametrize("features", [3, 5])
def test_the_way_of_one_sample_does_not_depend_on_how_long_others_look_for_a_start(features: int) -> None:
    draw = torch.Generator().manual_seed(0)
    waves, slopes = (torch.randn(3, features, generator=draw, dtype=torch.float64) for _ in range(2))

    def net(x: torch.Tensor) -> torch.Tensor:
        """Nothing but sums of its own features, so that rounding is the same in any batch."""
        return ((x[:, None] * waves).sin() + x[:, None] * slopes).sum(-1)

    x = torch.randn(40, features, generator=draw, dtype=torch.float64)
    attack = HopSkipJump(queries=600)
    together, alone = attack(Victim(net), x), attack(Victim(net), x[3:4])
    assert torch.allclose(together.x_adv[3:4], alone.x_adv, atol=1e-9)


def test_one_action_that_moves_enough_counts_more_than_two_that_move_less() -> None:
    # The first feature moves both actions by .9 of the tolerance, the second moves one of them by 1.05 of it.
    victim = Victim(lambda x: x @ torch.tensor([[0.9, 0.9], [1.05, 0.0]]), (0, 1), tolerance=torch.ones(2))
    x = torch.zeros(1, 2)
    for attack in (OnePixel(), SimBA(norm="linf", epsilon=1.0, queries=50), SimBA(epsilon=1.0, step_size=1.0)):
        assert bool(attack(victim, x).success), attack


@pytest.mark.parametrize("seed", range(8))
def test_nes_moves_continuous_actions_however_flat_they_are_at_first(seed: int) -> None:
    torch.manual_seed(seed)
    victim = Victim(nn.Linear(3, 2, bias=False), tolerance=torch.full((2,), 0.1))
    assert rate(NES(epsilon=0.3)(victim, torch.zeros(4, 3)).success) == 1


def test_a_probe_of_nes_that_succeeds_is_taken() -> None:
    victim = Victim(lambda x: torch.stack((x.sum(1), 0.01 - x.sum(1)), 1))
    result = NES(epsilon=1.0, directions=5)(victim, torch.full((1, 3), 0.0))
    assert int(result.n_queries) == 1 + 10 + 1 + 1  # The clean input, the probes, the one that succeeded, the end.
    assert float(result.distance) < 0.5  # Not so far as a step.


def test_probes_of_nes_that_succeed_outside_the_ball_lead_to_its_edge() -> None:
    victim = Victim(lambda x: x.sum(1, keepdim=True), tolerance=torch.tensor([1.05]))
    result = NES(epsilon=0.5)(victim, torch.zeros(3, 2))
    assert not bool(result.success.any())
    assert result.distance.tolist() == pytest.approx([0.5] * 3)


def test_large_images_need_no_basis_of_all_their_pixels() -> None:
    x = torch.full((1, 3, 224, 224), 0.5)
    weights = torch.randn(x[0].numel(), 2, generator=torch.Generator().manual_seed(0))
    victim = Victim(lambda x: x.flatten(1) @ weights, (0, 1))
    for basis in ("pixel", "dct"):
        result = SimBA(epsilon=50.0, basis=basis, queries=4)(victim, x)
        assert int(result.n_queries) <= 6
        assert 0 < float(result.distance) <= 50


def test_rates_on_digits(digits: Digits) -> None:
    victim, x, y = digits
    noise = rate(RandomNoise(epsilon=0.15)(victim, x, y).success)
    linf = rate(PGD(epsilon=0.15, loss="margin", restarts=6)(victim, x, y).success)
    for attack in (NES(epsilon=0.15), SimBA(norm="linf", epsilon=0.15)):
        assert noise + 0.2 < rate(attack(victim, x, y).success) <= linf + 0.05
    l2 = rate(PGD(norm="l2", epsilon=1.0, loss="margin")(victim, x, y).success)
    for attack in (NES(norm="l2", epsilon=1.0), SimBA(), SimBA(basis="dct"), Square(norm="l2", epsilon=1.0)):
        assert l2 - 0.25 <= rate(attack(victim, x, y).success) <= l2 + 0.05
    nearest, jump = DeepFool()(victim, x, y), HopSkipJump()(victim, x, y)
    assert rate(jump.success) == 1
    assert 0.95 <= float(jump.distance.median() / nearest.distance.median()) <= 1.4
    assert rate(OnePixel(pixels=3)(victim, x, y).success) > rate(OnePixel()(victim, x, y).success) > 0.05


def test_whole_numbers_are_asked_for_as_they_are() -> None:
    shown = []
    inner = linear([3.0, -2.0, 1.0, 1.0], -40.0)

    def whole(x: torch.Tensor) -> torch.Tensor:
        shown.append(x.clone())
        return inner(x)

    result = HopSkipJump(queries=100)(Victim(whole, (0, 255), integers=True), torch.full((2, 4), 5.0))
    assert all(torch.equal(each, each.round()) for each in shown)
    assert rate(result.success) == 1


def test_continuous_actions_are_moved() -> None:
    torch.manual_seed(0)
    victim = Victim(nn.Linear(3, 2), tolerance=torch.full((2,), 0.1))
    for attack in (FGSM(epsilon=0.3), IFGSM(epsilon=0.3), MIFGSM(epsilon=0.3), PGD(epsilon=0.3, random_start=False)):
        assert rate(attack(victim, torch.zeros(4, 3)).success) == 1
    for attack in (NES(epsilon=0.3), SimBA(epsilon=0.5), Square(norm="l2", epsilon=0.5), HopSkipJump(queries=200)):
        assert rate(attack(victim, torch.zeros(4, 3)).success) == 1


def test_cosines_are_orthonormal() -> None:
    waves = cosines(7)
    assert torch.allclose(waves @ waves.T, torch.eye(7), atol=1e-6)
    assert torch.allclose(waves[0], waves[0, :1].expand(7))


def test_universal_is_the_optimum_where_one_is_best_for_all() -> None:
    weights = [3.0, -2.0, 0.5, 0.1]
    x = torch.randn(40, 4, generator=torch.Generator().manual_seed(0)) / 10
    attack = Universal(epsilon=0.5)
    fitted = attack.fit(Victim(linear(weights, -2.4)), x, torch.zeros(40, dtype=torch.long))
    assert fitted.delta is not None
    assert torch.allclose(fitted.delta, 0.5 * torch.tensor(weights).sign(), atol=1e-5)
    assert fitted.fit(Victim(linear(weights)), x) is fitted
    result = fitted(Victim(linear(weights, -2.4)), x)
    assert torch.allclose(result.x_adv - x, fitted.delta.expand(40, 4), atol=1e-6)
    assert int(result.n_queries.max()) == 2


def test_a_perturbation_of_a_larger_ball_is_made_to_fit() -> None:
    victim, x = Victim(linear([1.0, 2.0])), torch.zeros(3, 2)
    large = Universal(epsilon=1.0).fit(victim, x)
    assert float(replace(large, epsilon=0.2)(victim, x).distance.max()) == pytest.approx(0.2)
    with pytest.raises(UserError, match="learn another by fit"):
        large(Victim(nn.Linear(3, 2)), torch.zeros(1, 3))


def test_universal_fools_what_it_has_not_seen(digits: Digits) -> None:
    victim, x, y = digits
    attack = Universal(epsilon=0.25, batch_size=16).fit(victim, x[:32], y[:32])
    unseen = rate(attack(victim, x[32:], y[32:]).success)
    assert unseen > rate(RandomNoise(epsilon=0.25)(victim, x[32:], y[32:]).success) + 0.2
    picture = attack.picture()
    assert picture is not None
    assert picture.shape == (1, 8, 8)
    assert float(picture.min()) >= 0
    assert float(picture.max()) <= 1


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: NES(estimator="newton"), "nes or spsa"),
        (lambda: NES(norm="l1"), "choose linf or l2"),
        (lambda: NES(sigma=0.0), "above 0"),
        (lambda: SimBA(basis="wavelet"), "pixel or dct"),
        (lambda: SimBA(frequencies=2.0), "at most 1"),
        (lambda: HopSkipJump(queries=0), "above 0"),
        (lambda: HopSkipJump(starts=torch.zeros(2, 4))(Victim(nn.Linear(3, 2)), torch.zeros(1, 3)), "samples of"),
        (
            lambda: HopSkipJump(starts=torch.ones(2, 3) * 2)(Victim(nn.Linear(3, 2), (0, 1)), torch.zeros(1, 3)),
            "outside",
        ),
        (
            lambda: HopSkipJump()(Victim(linear([1.0])), torch.zeros(1, 1), torch.tensor([0]), torch.tensor([1])),
            "starts from inputs of that class",
        ),
        (lambda: OnePixel(population=3), "at least 4"),
        (lambda: OnePixel(norm="l2"), "choose l0"),
        (lambda: OnePixel()(Victim(nn.Linear(3, 2)), torch.zeros(1, 3)), "finite"),
        (lambda: Universal(steps=0), "above 0"),
        (lambda: Universal().fit(Victim(nn.Linear(3, 2)), torch.zeros(0, 3)), "empty"),
    ],
)
def test_bad_input(make: object, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        make()  # type: ignore[operator]

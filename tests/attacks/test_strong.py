"""Attacks for the smallest perturbation, with steps of their own size, and without gradients."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from rltool.attacks import APGD, FGSM, PGD, CarliniWagner, DeepFool, Square, Victim
from rltool.attacks.apgd import checkpoints_of
from rltool.errors import UserError

Digits = tuple[Victim, torch.Tensor, torch.Tensor]


def halfspace(weights: list[float], bias: float) -> nn.Module:
    """Class 1 where w x + bias > 0."""
    layer = nn.Linear(len(weights), 2)
    layer.weight.data = torch.tensor([[0.0] * len(weights), weights])
    layer.bias.data = torch.tensor([0.0, bias])
    return layer


def rate(success: torch.Tensor) -> float:
    return float(success.float().mean())


@pytest.mark.parametrize(("norm", "expected"), [("l2", 2 / 5), ("linf", 2 / 7)])
def test_deepfool_is_exact_on_a_linear_victim(norm: str, expected: float) -> None:
    victim = Victim(halfspace([3.0, -4.0], -2.0))
    result = DeepFool(norm=norm, overshoot=0.0)(victim, torch.zeros(1, 2))
    assert bool(result.success)
    assert float(result.distance) == pytest.approx(expected, rel=1e-3)
    assert result.n_backward == 4  # Two gradients, and two that see that it has arrived.


@pytest.mark.parametrize("bounds", [(-torch.inf, torch.inf), (-3.0, 3.0)])
def test_carlini_wagner_finds_the_distance_to_a_half_space(bounds: tuple[float, float]) -> None:
    victim = Victim(halfspace([3.0, -4.0], -2.0), bounds)
    result = CarliniWagner(learning_rate=0.02, steps=300)(victim, torch.zeros(1, 2))
    assert bool(result.success)
    assert float(result.distance) == pytest.approx(2 / 5, rel=0.02)


def test_nothing_is_moved_where_the_victim_is_wrong_already(digits: Digits) -> None:
    victim, x, y = digits
    wrong = (y + 1) % 10
    for attack in (DeepFool(), CarliniWagner(), APGD(), Square()):
        result = attack(victim, x[:4], wrong[:4])
        assert torch.equal(result.x_adv, x[:4])
        assert bool(result.success.all())
        assert bool((result.n_queries == 2).all())


def test_pixels_on_the_bounds_move(digits: Digits) -> None:
    victim, x, y = digits
    x = (x > 0.5).float()
    right = victim.logits(x).argmax(1) == y
    result = CarliniWagner(searches=4)(victim, x[right], y[right])
    assert rate(result.success) == 1
    assert bool(((result.x_adv - x[right]).abs() > 0.01).any(1).any())


def test_the_smallest_perturbations(digits: Digits) -> None:
    victim, x, y = digits
    deepfool, wagner = DeepFool()(victim, x, y), CarliniWagner(searches=5)(victim, x, y)
    assert rate(deepfool.success) == rate(wagner.success) == 1
    assert float(wagner.distance.median()) <= float(deepfool.distance.median())
    # A ball of that radius is what PGD needs, too: half of the samples fall in it, give or take a few.
    ball = PGD(norm="l2", epsilon=float(wagner.distance.median()), loss="margin")(victim, x, y)
    assert 0.3 <= rate(ball.success) <= 0.6


def test_targets(digits: Digits) -> None:
    victim, x, y = digits
    x, y = x[:16], y[:16]
    target = (y + 3) % 10
    for attack in (DeepFool(), CarliniWagner(searches=5), APGD(epsilon=0.4, steps=30), Square(epsilon=0.5)):
        result = attack(victim, x, y, target)
        assert torch.equal(result.success, victim.logits(result.x_adv).argmax(1) == target)
        assert rate(result.success) >= 0.7


def test_order_of_strength(digits: Digits) -> None:
    victim, x, y = digits
    fgsm, pgd = FGSM(epsilon=0.12)(victim, x, y), PGD(epsilon=0.12, loss="margin")(victim, x, y)
    # The margin follows one of the nine other classes from each start, and random search tries several.
    apgd, square = APGD(epsilon=0.12, restarts=5)(victim, x, y), Square(epsilon=0.12, queries=300)(victim, x, y)
    assert rate(apgd.success) >= rate(pgd.success) >= rate(fgsm.success)
    assert rate(apgd.success) >= rate(square.success) > rate(fgsm.success)
    for result in (apgd, square):
        assert float(result.distance.max()) <= 0.12 + 1e-6
    assert square.n_backward == 0
    assert int(square.n_queries.max()) <= 302


def test_whole_numbers_stay_whole_and_within_epsilon(digits: Digits) -> None:
    victim, x, y = digits
    bytes_, shown = (x * 255).round(), []
    net = victim.module

    def reads_bytes(x: torch.Tensor) -> torch.Tensor:
        shown.append(x.detach())
        return net(x / 255)

    result = PGD(epsilon=20.6, steps=5)(Victim(reads_bytes, (0, 255), integers=True), bytes_, y)
    assert torch.equal(result.x_adv, result.x_adv.round())
    assert float(result.distance.max()) == 20
    assert torch.equal(shown[-1], result.x_adv)  # Judged as it is.


def test_apgd_with_each_loss_and_restarts(digits: Digits) -> None:
    victim, x, y = digits
    for loss in ("ce", "dlr", "margin"):
        one = APGD(epsilon=0.06, steps=15, loss=loss)(victim, x, y)
        three = APGD(epsilon=0.06, steps=15, loss=loss, restarts=3)(victim, x, y)
        assert bool((three.success | ~one.success).all())
        two = APGD(norm="l2", epsilon=0.6, steps=15, loss=loss)(victim, x, y)
        assert float(two.distance.max()) <= 0.6 + 1e-5


def test_checkpoints_cover_all_steps() -> None:
    assert checkpoints_of(100) == {22: 22, 41: 19, 57: 16, 70: 13, 80: 10, 87: 7, 93: 6, 99: 6}
    for steps in (1, 2, 7, 20):
        assert sum(checkpoints_of(steps).values()) <= steps


def test_what_one_sample_gets_does_not_depend_on_the_others(digits: Digits) -> None:
    victim, x, y = digits
    x, y = x[:8], y[:8]
    broken = y.clone()
    broken[1:] = (y[1:] + 1) % 10  # The others are wrong already, and left alone.
    for attack in (PGD(epsilon=0.12, restarts=2), APGD(epsilon=0.12, steps=20), Square(epsilon=0.12, queries=50)):
        together, alone = attack(victim, x, y), attack(victim, x, broken)
        assert torch.allclose(together.x_adv[0], alone.x_adv[0], atol=1e-6)
        assert together.n_queries[0] == alone.n_queries[0]


def test_square_needs_no_gradient() -> None:
    victim = Victim(lambda x: torch.stack((x.mean((1, 2, 3)), 0.5 - 0 * x.mean((1, 2, 3))), 1).detach(), (0, 1))
    x = torch.full((6, 2, 5, 7), 0.45)
    result = Square(epsilon=0.1)(victim, x)
    assert rate(result.success) == 1
    vectors = Square(epsilon=0.5)(Victim(halfspace([3.0, -4.0], -2.0)), torch.zeros(3, 2))
    assert rate(vectors.success) == 1


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: DeepFool(norm="l1"), "choose l2 or linf"),
        (lambda: DeepFool(candidates=0), "above 0"),
        (lambda: CarliniWagner(norm="linf"), "choose l2"),
        (lambda: CarliniWagner(learning_rate=0.0), "above 0"),
        (lambda: APGD(norm="l1"), "choose linf or l2"),
        (lambda: Square(norm="l1"), "choose linf or l2"),
        (lambda: Square(share=1.5), "at most 1"),
        (lambda: Square(queries=0), "above 0"),
        (
            lambda: DeepFool()(Victim(nn.Linear(3, 1), tolerance=torch.ones(1)), torch.zeros(1, 3)),
            "continuous actions have none",
        ),
    ],
)
def test_bad_input(make: object, sentence: str) -> None:
    with pytest.raises(UserError) as error:
        make()  # type: ignore[operator]
    assert sentence in str(error.value)

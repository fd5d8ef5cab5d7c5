"""Transfer, physical attacks, patches and reprogramming."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from rltool.attacks import (
    PGD,
    Patch,
    Physical,
    RandomNoise,
    Transfer,
    Transformations,
    Victim,
    learn_from_answers,
    non_printability,
    reprogram,
    total_variation,
    train_proxy,
)
from rltool.attacks.patch import paste
from rltool.attacks.physical import printable
from rltool.data import load_dataset
from rltool.errors import UserError

Digits = tuple[Victim, torch.Tensor, torch.Tensor]
STILL = Transformations(0.0, 0.0, 0.0, 0.0, 0.0)


def rate(success: torch.Tensor) -> float:
    return float(success.float().mean())


def draw() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="module")
def training() -> tuple[torch.Tensor, torch.Tensor]:
    data = load_dataset("digits").train
    return torch.from_numpy(data.x[:600]), torch.from_numpy(data.y[:600])


def small() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


# Transfer


def test_from_itself_transfer_is_the_attack_itself(digits: Digits) -> None:
    victim, x, y = digits
    attack = PGD(epsilon=0.15, loss="margin", skip_broken=False)
    for fuse in ("logits", "losses"):
        result = Transfer(proxies=[victim, victim], attack=attack, fuse=fuse)(victim, x, y)
        assert torch.allclose(result.x_adv, attack(victim, x, y).x_adv, atol=1e-5)
        assert int(result.n_queries.max()) == 2
    assert Transfer(attack=PGD(norm="l2", epsilon=0.4)).norm == "l2"
    assert Transfer(attack=PGD(norm="l2", epsilon=0.4)).epsilon == 0.4
    assert Transfer(attack=PGD(unit="std")).unit == "std"
    with pytest.raises(TypeError):
        Transfer(norm="l2")  # type: ignore[call-arg] # It would do nothing.


def test_what_is_wrong_already_is_left_alone(digits: Digits) -> None:
    victim, x, y = digits
    result = Transfer(proxies=[victim])(victim, x[:4], (y[:4] + 1) % 10)
    assert torch.equal(result.x_adv, x[:4])


def test_proxies_carry_over_and_several_do_so_better(digits: Digits, training: tuple) -> None:
    victim, x, y = digits
    torch.manual_seed(0)
    proxies = [train_proxy(*training, 10, victim, network=small(), epochs=20, seed=k) for k in range(3)]
    assert all(rate(proxy.logits(x).argmax(1) == y) > 0.85 for proxy in proxies)
    noise = rate(RandomNoise(epsilon=0.2)(victim, x, y).success)
    one, three = (
        rate(Transfer(proxies=some, attack=PGD(epsilon=0.2))(victim, x, y).success) for some in (proxies[:1], proxies)
    )
    assert one > noise + 0.1
    assert three >= one - 0.05


def test_a_proxy_learned_from_answers_alone(digits: Digits, training: tuple) -> None:
    victim, x, _ = digits
    asked = []

    def answers(x: torch.Tensor) -> torch.Tensor:
        asked.append(len(x))
        return victim.module(x)

    torch.manual_seed(0)
    proxy, queries = learn_from_answers(
        Victim(answers, (0, 1)), training[0][:100], rounds=2, network=small(), epochs=20
    )
    assert queries == sum(asked) == 401
    assert rate(proxy.logits(x).argmax(1) == victim.logits(x).argmax(1)) > 0.7
    assert all(parameter.grad is None for parameter in proxy.module.parameters())


def test_fit_trains_a_proxy_where_none_is_given(digits: Digits, training: tuple) -> None:
    victim, x, y = digits
    fitted = Transfer(epochs=1).fit(victim, *training)
    assert len(fitted.proxies) == 1
    assert fitted.asked == 0
    assert fitted.fit(victim, *training) is fitted
    assert Transfer(answers_only=True, inputs=20, epochs=1, rounds=1).fit(victim, *training).asked == 41
    with pytest.raises(UserError, match="needs a proxy"):
        Transfer()(victim, x, y)


# Physical


def test_views_without_change_are_the_images_themselves() -> None:
    x = torch.rand(3, 2, 5, 7, generator=draw())
    views = STILL.views(Victim(small(), (0, 1)), x, 4, draw())
    assert torch.allclose(views, x.repeat(4, 1, 1, 1), atol=1e-5)


def test_views_shift_turn_and_light() -> None:
    victim = Victim(small(), (0, 1))
    x = torch.zeros(1, 1, 9, 9)
    x[0, 0, 4, 4] = 1.0
    shifted = Transformations(0.3, 0.0, 0.0, 0.0, 0.0).views(victim, x, 50, draw())
    places = shifted.flatten(1).argmax(1)
    assert 10 < len(places.unique()) <= 49
    turned = Transformations(0.0, 180.0, 0.0, 0.0, 0.0).views(victim, x, 20, draw())
    assert torch.allclose(turned[:, 0, 4, 4], torch.ones(20), atol=1e-5)  # The middle stays where it is.
    lit = Transformations(0.0, 0.0, 0.0, 0.2, 0.0).views(victim, x + 0.4 - 0.4 * x, 50, draw())
    assert 0.2 <= float(lit[:, 0, 0, 0].min()) < 0.3 < 0.5 < float(lit[:, 0, 0, 0].max()) <= 0.6


def test_turned_pictures_keep_their_shape_where_sides_differ() -> None:
    x = torch.zeros(1, 1, 21, 41)
    x[0, 0, 10, 15:26] = 1.0  # 11 pixels along the row.
    right_angle = Transformations(0.0, 90.0, 0.0, 0.0, 0.0)
    victim = Victim(small(), (0, 1))
    for view in right_angle.views(victim, x, 30, draw()):
        assert float(view.sum()) == pytest.approx(11, rel=0.15)  # A line as long, whichever way it points.


def test_total_variation_and_printability() -> None:
    flat = torch.full((1, 1, 4, 4), 0.3)
    step = flat.clone()
    step[..., 2:] = 0.8
    assert float(total_variation(flat)) == pytest.approx(0, abs=1e-3)
    assert float(total_variation(step)) == pytest.approx(4 * 0.5, abs=1e-3)
    colors = printable(Victim(small(), (0, 1)), flat)
    assert torch.allclose(colors, torch.tensor([[0.1], [0.5], [0.9]]))
    assert float(non_printability(torch.full((1, 1, 4, 4), 0.5), colors)) == pytest.approx(0, abs=1e-5)
    assert float(non_printability(flat, colors)) == pytest.approx(0.2 * 0.2 * 0.6, abs=1e-5)


def test_perturbations_survive_other_views(digits: Digits) -> None:
    victim, x, y = digits
    views = Transformations(shift=0.13, rotation=10)
    options = {"shift": 0.13, "rotation": 10.0}
    physical = Physical(epsilon=0.2, steps=20, **options)(victim, x, y)
    plain = PGD(epsilon=0.2, steps=20)(victim, x, y)
    assert rate(views.success(victim, physical.x_adv, y)) > rate(views.success(victim, plain.x_adv, y)) + 0.1
    assert float(physical.distance.max()) <= 0.2 + 1e-6
    assert int(physical.n_queries.max()) == 20 * 16 + 2
    smooth = Physical(epsilon=0.2, steps=20, smoothness=0.5, **options)(victim, x, y)
    assert float(total_variation(smooth.x_adv - x).mean()) < float(total_variation(physical.x_adv - x).mean())
    colors = printable(victim, x)
    printed = Physical(epsilon=0.2, steps=20, printability=1_000.0, **options)(victim, x, y)
    scores = [float(non_printability(each.x_adv, colors).mean()) for each in (printed, physical)]
    assert scores[0] < scores[1]
    alone = Physical(epsilon=0.2, steps=20, **options)(victim, x[3:4], y[3:4])
    assert torch.allclose(alone.x_adv, physical.x_adv[3:4], atol=1e-4)


# Patches


def test_patches_lie_within_the_image_and_change_nothing_else() -> None:
    x, patch = torch.zeros(200, 2, 5, 6), torch.rand(2, 3, 3, generator=draw()) + 0.1
    pasted = paste(x, patch, draw())
    assert bool(((pasted != 0).flatten(1).sum(1) == 18).all())
    assert torch.allclose(pasted.flatten(1).sum(1), patch.sum().expand(200), rtol=1e-5)
    places = (pasted[:, 0] != 0).flatten(1).float().argmax(1)
    assert len(places.unique()) == 3 * 4


def test_patch_of_a_linear_victim_is_white_or_black() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(25, 2))
    net[1].weight.data = torch.stack((torch.zeros(25), torch.ones(25)))
    net[1].bias.data = torch.tensor([8.0, 0.0])
    x = torch.zeros(20, 1, 5, 5)
    fitted = Patch(size=3, steps=150).fit(Victim(net, (0, 1)), x)
    assert fitted.patch is not None
    assert bool((fitted.patch > 0.95).all())
    assert rate(fitted(Victim(net, (0, 1)), x).success) == 1  # Nine white pixels are more than 8.
    assert not any(parameter.grad is not None for parameter in net.parameters())


def test_patches_fool_what_they_have_not_seen(digits: Digits, training: tuple) -> None:
    victim, x, y = digits
    fitted = Patch(size=4, steps=150).fit(victim, *training)
    assert fitted.patch is not None
    random = Patch(patch=torch.rand(1, 4, 4, generator=draw()))
    assert rate(fitted(victim, x, y).success) > rate(random(victim, x, y).success) + 0.15
    some, others = training[1] != 3, y != 3
    three = torch.full_like(training[1], 3)
    aimed = Patch(size=4, steps=150).fit(victim, training[0][some], training[1][some], three[some])
    result = aimed(victim, x[others], y[others], torch.full_like(y[others], 3))
    untouched = victim.logits(x[others]).argmax(1) == 3
    assert rate(result.success) > rate(untouched) + 0.05


def test_training_a_proxy_leaves_victim_and_global_draws_alone(digits: Digits, training: tuple) -> None:
    net = nn.Sequential(nn.BatchNorm2d(1), nn.Dropout(0.5), digits[0].module)  # type: ignore[arg-type]
    net.train()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    x, y = (part[:40] for part in training)
    found = []
    for answers_only in (False, True, True):
        torch.manual_seed(len(found))
        kept = torch.get_rng_state()
        attack = Transfer(answers_only=answers_only, epochs=1, inputs=20, rounds=1)
        found.append(attack.fit(Victim(net, (0, 1)), x, y).proxies[0].logits(x))
        assert torch.equal(torch.get_rng_state(), kept)
    assert torch.equal(found[1], found[2])
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert net[1].training


# Reprogramming


def test_digits_are_reprogrammed_to_say_which_half_is_bright(digits: Digits) -> None:
    victim, _, _ = digits
    noise = draw()
    y = torch.randint(2, (400,), generator=noise)
    x = torch.rand((400, 1, 4, 4), generator=noise) * 0.3
    for k in range(2):
        x[y == k, :, :, 2 * k : 2 * k + 2] += 0.7
    weights = [parameter.clone() for parameter in victim.module.parameters()]
    program = reprogram(victim, x[:200], y[:200], (1, 8, 8), steps=300)
    assert program.accuracy(x[200:], y[200:]) > 0.9
    assert all(torch.equal(one, two) for one, two in zip(weights, victim.module.parameters(), strict=True))
    assert torch.equal(program.embed(x)[:, :, 2:6, 2:6], x)
    assert bool((program.embed(x)[:, :, 0] == program.frame[:, 0]).all())
    assert 0 <= float(program.frame.min()) <= float(program.frame.max()) <= 1


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda victim, x: Transfer(fuse="votes"), "logits or losses"),
        (lambda victim, x: Transfer(rounds=-1), "at least 0"),
        (lambda victim, x: Transfer(epochs=1).fit(victim, x, torch.full((64,), 10)), "classes 0 to 9"),
        (lambda victim, x: Transfer(epochs=1).fit(victim, x, torch.zeros(3, dtype=torch.long)), "each of the 64"),
        (lambda victim, x: Transfer().fit(victim, x[:0], torch.zeros(0)), "needs examples"),
        (lambda victim, x: Transfer(answers_only=True).fit(victim, x + 1), "outside the victim's bounds"),
        (lambda victim, x: Transfer().fit(Victim(small(), tolerance=torch.ones(10)), x), "trained to give classes"),
        (lambda victim, x: Transfer(proxies=[small()])(victim, x), "a proxy is a Victim"),
        (lambda victim, x: Transfer(proxies=[Victim(nn.Flatten())])(victim, x), "gives 64 logits, the victim 10"),
        (lambda victim, x: Transfer(proxies=[Victim(nn.Linear(4, 10))])(victim, x), "not stand in.*cannot read"),
        (lambda victim, x: Transformations(shift=-1.0), "at least 0"),
        (lambda victim, x: Physical(scale=1.0), "below 1"),
        (lambda victim, x: Physical(smoothness=-1.0), "at least 0"),
        (lambda victim, x: Physical(loss="cee"), "did you mean 'ce'"),
        (lambda victim, x: Physical()(Victim(nn.Linear(3, 2), (0, 1)), torch.zeros(1, 3)), "needs images"),
        (lambda victim, x: Patch(size=9)(victim, x), "does not fit"),
        (lambda victim, x: Patch(patch=torch.zeros(1, 9, 9))(victim, x), "does not fit"),
        (lambda victim, x: Patch(patch=torch.zeros(3, 2, 2))(victim, x), r"is \(1, size, size\)"),
        (
            lambda victim, x: Patch(patch=torch.zeros(1, 2, 2))(Victim(nn.Linear(3, 2), (0, 1)), x[:, 0, 0, :3]),
            "images",
        ),
        (lambda victim, x: Patch()(Victim(victim.module), x), "finite"),
        (lambda victim, x: reprogram(victim, x, torch.zeros(64, dtype=torch.long), (1, 8, 8)), "leave no frame"),
        (lambda victim, x: reprogram(victim, x[..., :4, :4], torch.full((64,), 10), (1, 8, 8)), "11 classes"),
        (lambda victim, x: reprogram(victim, x[..., :4, :4], torch.full((64,), -1), (1, 8, 8)), "counted from 0"),
        (
            lambda victim, x: reprogram(victim, x[..., :4, :4], torch.zeros(3).long(), (1, 8, 8)),
            "for each of the images",
        ),
        (lambda victim, x: reprogram(victim, x[..., :4, :4] + 1, torch.zeros(64).long(), (1, 8, 8)), "outside the"),
        (lambda victim, x: reprogram(victim, x[..., :4, :4], torch.zeros(64).long(), (1, 9, 9)), "cannot read inputs"),
    ],
)
def test_bad_input(make: object, sentence: str, digits: Digits) -> None:
    with pytest.raises(UserError, match=sentence):
        make(digits[0], digits[1])  # type: ignore[operator]

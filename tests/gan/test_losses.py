import math

import pytest
import torch

from rltool.gan.losses import LOSSES
from rltool.gan.penalties import dragan, gradient_penalty, r1, squared_gradient_norms


def sigmoid(x):
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def log1p_exp(x):
    return max(x, 0) + math.log1p(math.exp(-abs(x)))


# Of one real logit r and one fake logit f: discriminator's loss and its gradient (dr, df), then the generator's (df).
CLOSED = {
    "minimax": lambda r, f: (
        (log1p_exp(-r) + log1p_exp(f), -sigmoid(-r), sigmoid(f)),
        (-log1p_exp(f), -sigmoid(f)),
    ),
    "non-saturating": lambda r, f: (
        (log1p_exp(-r) + log1p_exp(f), -sigmoid(-r), sigmoid(f)),
        (log1p_exp(-f), -sigmoid(-f)),
    ),
    "least-squares": lambda r, f: (((r - 1) ** 2 / 2 + f**2 / 2, r - 1, f), ((f - 1) ** 2 / 2, f - 1)),
    "hinge": lambda r, f: (
        (max(0, 1 - r) + max(0, 1 + f), -1.0 if r < 1 else 0.0, 1.0 if f > -1 else 0.0),
        (-f, -1.0),
    ),
    "wasserstein": lambda r, f: ((f - r, -1.0, 1.0), (-f, -1.0)),
    "relativistic": lambda r, f: (
        (log1p_exp(f - r), -sigmoid(f - r), sigmoid(f - r)),
        (log1p_exp(r - f), -sigmoid(r - f)),
    ),
    "relativistic-average": lambda r, f: (
        (2 * log1p_exp(f - r), -2 * sigmoid(f - r), 2 * sigmoid(f - r)),
        (2 * log1p_exp(r - f), -2 * sigmoid(r - f)),
    ),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("r", [-100.0, -30.0, 0.0, 30.0, 100.0])
@pytest.mark.parametrize("f", [-100.0, -30.0, 0.0, 30.0, 100.0])
def test_values_and_gradients_at_every_logit(name, r, f):
    loss = LOSSES[name]
    (value, d_real, d_fake), (g_value, g_fake) = CLOSED[name](r, f)
    real, fake = (torch.tensor([x], requires_grad=True) for x in (r, f))
    out = loss.discriminator(real, fake)
    assert float(out.detach()) == pytest.approx(value, rel=1e-5, abs=1e-6)
    gradients = torch.autograd.grad(out, (real, fake))
    assert [float(g) for g in gradients] == pytest.approx([d_real, d_fake], rel=1e-4, abs=1e-12)
    out = loss.generator(fake, real)
    assert float(out.detach()) == pytest.approx(g_value, rel=1e-5, abs=1e-6)
    assert float(torch.autograd.grad(out, fake)[0]) == pytest.approx(g_fake, rel=1e-4, abs=1e-12)


def test_the_non_saturating_loss_pulls_where_the_minimax_one_does_not():
    for name, least, most in (("non-saturating", 0.99, 1.0), ("minimax", 0.0, 1e-12)):
        fake = torch.tensor([-100.0], requires_grad=True)
        LOSSES[name].generator(fake, fake.detach()).backward()
        assert least <= -float(fake.grad) <= most


@pytest.mark.parametrize("name", LOSSES)
def test_losses_are_means_over_the_minibatch(name):
    torch.manual_seed(0)
    real, fake = torch.randn(2, 6)
    loss = LOSSES[name]
    doubled = [torch.cat([x, x]) for x in (real, fake)]
    assert torch.allclose(loss.discriminator(*doubled), loss.discriminator(real, fake))
    assert torch.allclose(loss.generator(*doubled[::-1]), loss.generator(fake, real))


@pytest.mark.parametrize("shape", [(2,), (3, 4, 4)])
def test_penalties_of_a_linear_critic(shape):
    """Its gradient is its weight everywhere, over all values of an example at once."""
    torch.manual_seed(0)
    weight = torch.randn(shape, dtype=torch.float64)
    norm = float(weight.norm())
    real, fake = torch.randn(2, 5, *shape, dtype=torch.float64)

    def judge(x):
        return (x * weight).flatten(1).sum(1)

    assert squared_gradient_norms(judge, real).tolist() == pytest.approx([norm**2] * 5)
    assert float(gradient_penalty(judge, real, fake)) == pytest.approx((norm - 1) ** 2)
    assert float(dragan(judge, real, fake)) == pytest.approx((norm - 1) ** 2)
    assert float(r1(judge, real, fake)) == pytest.approx(norm**2 / 2)
    assert float(r1(judge, real, fake, 3.0)) == pytest.approx(9 * norm**2 / 2)


def test_where_penalties_look():
    """A critic |x|^2 / 2 has the gradient x: the penalty says where it was taken."""
    torch.manual_seed(0)
    real, fake = torch.zeros(500, 2), torch.tensor([[4.0, 0.0]]).expand(500, 2)
    seen = []

    def judge(x):
        seen.append(x.detach())
        return x.square().sum(1) / 2

    gradient_penalty(judge, real, fake)
    share = seen[0][:, 0] / 4
    assert seen[0][:, 1].abs().max() == 0
    assert 0 <= share.min() < 0.02
    assert 0.98 < share.max() <= 1
    assert len(share.unique()) == 500  # One share for each example, not for the minibatch.
    assert float(r1(judge, fake, real).detach()) == pytest.approx(8)
    gradient_penalty(lambda x: judge(x).reshape(-1, 4).sum(1), real, fake, pack=4)
    shares = (seen[-1][:, 0] / 4).reshape(-1, 4)
    assert (shares == shares[:, :1]).all()  # A pack is one point ...
    assert len(shares[:, 0].unique()) == 125  # ... and each pack another one.


def test_penalties_reach_the_weights_and_are_finite_where_the_gradient_is_zero():
    weight = torch.zeros(2, requires_grad=True)
    x = torch.randn(4, 2)
    for penalty in (gradient_penalty, dragan):
        (gradient,) = torch.autograd.grad(penalty(lambda x: x @ weight, x, x + 1), weight)
        assert gradient.isfinite().all()
    weight = torch.tensor([3.0, 4.0], requires_grad=True)
    (gradient,) = torch.autograd.grad(gradient_penalty(lambda x: x @ weight, x, x + 1), weight)
    assert gradient.tolist() == pytest.approx([2 * 4 * 0.6, 2 * 4 * 0.8])


def test_the_gradient_of_a_pack_is_one():
    x = torch.ones(6, 2)
    norms = squared_gradient_norms(lambda x: x.reshape(3, 4).square().sum(1) / 2, x)
    assert norms.tolist() == [4.0] * 3

"""Passive defenses: what each does to an image, and that attacks through them work."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from torch import nn

from rltool.attacks import FGSM, PGD, CarliniWagner, Square, Victim
from rltool.attacks.defenses import (
    DEFENSES,
    JPEG,
    Autoencoder,
    BitDepth,
    Defense,
    Median,
    Noise,
    Projection,
    ResizePad,
    Smoothing,
    defended,
    make_defense,
)
from rltool.data import load_dataset
from rltool.errors import UserError

Digits = tuple[Victim, torch.Tensor, torch.Tensor]
QUICK = {"autoencoder": {"steps": 200}, "projection": {"steps": 200, "descent": 5}}


def made(name: str) -> Defense:
    return make_defense(name, **QUICK.get(name, {})).fit(torch.from_numpy(load_dataset("digits").train.x))


def rate(success: torch.Tensor) -> float:
    return float(success.float().mean())


@pytest.mark.parametrize("name", DEFENSES.names())
def test_every_defense_keeps_shape_range_and_most_answers(digits: Digits, name: str) -> None:
    victim, x, y = digits
    defense = made(name)
    shown = defense(x)
    assert shown.shape == x.shape
    if name != "noise":
        assert float(shown.min()) >= -1e-5
        assert float(shown.max()) <= 1 + 1e-5
    assert torch.equal(shown, defense(x)) != defense.random
    assert rate(victim.logits(shown).argmax(1) == y) > 0.5


@pytest.mark.parametrize("name", DEFENSES.names())
def test_gradients_are_there_or_bpda_is_asked_for(digits: Digits, name: str) -> None:
    victim, x, y = digits
    defense = made(name)
    if not defense.differentiable:
        with pytest.raises(UserError, match="say BPDA"):
            PGD(steps=2)(defended(victim, defense), x, y)
        with pytest.raises(UserError, match="say BPDA"):
            CarliniWagner(steps=2)(defended(victim, defense), x, y)
        assert Square(epsilon=0.3, queries=20)(defended(victim, defense), x, y).success.shape == y.shape
    through = defended(victim, defense, bpda=not defense.differentiable, eot=2)
    outputs, _, gradient = through.gradient(x, lambda logits: logits[:, 0])
    assert bool((gradient.flatten(1).norm(dim=1) > 0).all())
    assert outputs.shape == (len(x), 10)


def test_seeds_decide_what_is_drawn() -> None:
    x = torch.rand(4, 1, 8, 8)
    assert torch.equal(make_defense("noise", seed=1)(x), make_defense("noise", seed=1)(x))
    assert not torch.equal(make_defense("noise", seed=1)(x), make_defense("noise", seed=2)(x))


def test_a_blur_is_a_convolution_with_a_normal_kernel() -> None:
    x = torch.zeros(1, 1, 7, 7)
    x[0, 0, 3, 3] = 1.0
    blurred = Smoothing(sigma=1.0, size=5)(x)[0, 0]
    assert float(blurred.sum()) == pytest.approx(1)
    assert float(blurred[3, 4] / blurred[3, 3]) == pytest.approx(np.exp(-0.5), rel=1e-5)
    assert torch.allclose(blurred, blurred.T)
    assert torch.allclose(Smoothing()(torch.full((1, 3, 8, 8), 0.4)), torch.tensor(0.4))


def test_a_median_removes_single_pixels_and_keeps_edges() -> None:
    x = torch.zeros(1, 1, 8, 8)
    x[..., 4:] = 1.0
    spoilt = x.clone()
    spoilt[0, 0, 3, 1] = 1.0
    assert torch.equal(Median()(spoilt), x)


def test_bits() -> None:
    x = torch.tensor([0.0, 0.2, 0.49, 0.51, 1.0]).view(1, 1, 1, 5)
    assert BitDepth(bits=1)(x).flatten().tolist() == [0, 0, 0, 1, 1]
    assert torch.equal(
        BitDepth(bits=8)(torch.arange(256.0).view(1, 1, 16, 16) / 255) * 255, torch.arange(256.0).view(1, 1, 16, 16)
    )


@pytest.mark.parametrize("quality", [10, 50, 90])
@pytest.mark.parametrize("shape", [(8, 8), (13, 20), (13, 20, 3)])
def test_jpeg_is_that_of_libjpeg(quality: int, shape: tuple[int, ...]) -> None:
    image = pytest.importorskip("PIL.Image")
    rng = np.random.default_rng(0)
    smooth = rng.uniform(0, 255, shape).cumsum(0).cumsum(1)
    pixels = (smooth / smooth.max() * 255).astype(np.uint8)
    file = io.BytesIO()
    image.fromarray(pixels).save(file, "JPEG", quality=quality, subsampling=0)
    opened = image.open(file)
    for k, table in opened.quantization.items():
        assert table == JPEG(quality).steps[k].flatten().tolist()
    expected = np.asarray(opened, dtype=np.float32)
    x = torch.from_numpy(pixels.reshape(*shape[:2], -1)).permute(2, 0, 1)[None] / 255
    ours = JPEG(quality)(x)[0].permute(1, 2, 0).numpy().reshape(shape) * 255
    # Rarely, a coefficient is half a step from two numbers, and the DCT of whole numbers rounds it the other way.
    assert np.abs(ours - expected).mean() < 1.5


def test_jpegs_approximation_is_near_it() -> None:
    x, jpeg = torch.rand(2, 3, 9, 9), JPEG(70)
    x.requires_grad_()
    around = jpeg.approximation(x)
    assert float((around - jpeg(x)).detach().abs().mean()) < 0.02
    (gradient,) = torch.autograd.grad(around.sum(), x)
    assert bool(gradient.isfinite().all())


def test_a_smaller_image_at_a_random_place() -> None:
    x = torch.ones(200, 1, 10, 10)
    shown = ResizePad(smallest=0.5)(x)
    area = shown.flatten(1).mean(1).sqrt()
    assert 0.45 < float(area.min()) < 0.6
    assert 0.9 < float(area.max()) <= 1.0
    corners = shown[:, 0, 0, 0] > 0
    assert bool(corners.any())
    assert not bool(corners.all())


def test_noise_has_the_deviation_it_says() -> None:
    noise = Noise(sigma=0.3)(torch.zeros(100, 1, 16, 16))
    assert float(noise.std()) == pytest.approx(0.3, rel=0.02)


def test_an_autoencoder_denoises() -> None:
    data = load_dataset("digits")
    defense = Autoencoder(steps=400).fit(torch.from_numpy(data.train.x))
    x = torch.from_numpy(data.test.x)
    noisy = x + 0.2 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    assert float((defense(noisy) - x).square().mean()) < 0.6 * float((noisy - x).square().mean())
    with pytest.raises(UserError, match="learned nothing"):
        Autoencoder()(x)


def test_projection_finds_what_the_generator_made() -> None:
    generator = nn.Sequential(nn.Linear(3, 16), nn.Sigmoid(), nn.Unflatten(1, (1, 4, 4)))
    made = generator(torch.randn(5, 3)).detach()
    projection = Projection(latent=3, descent=200, generator=generator)
    assert projection.fit(made) is projection
    assert float((projection(made) - made).abs().max()) < 0.02
    off = (made + 0.3 * torch.randn(made.shape)).clamp(0, 1)
    assert bool(((projection(off) - off).flatten(1).norm(dim=1) <= (made - off).flatten(1).norm(dim=1) + 1e-3).all())
    with pytest.raises(UserError, match="no generator"):
        Projection()(made)


def test_eot_is_the_mean_probability(digits: Digits) -> None:
    victim, x, _ = digits
    through = defended(victim, Noise(sigma=0.2), eot=3)
    draws = make_defense("noise", sigma=0.2)(x.repeat(3, 1, 1, 1))
    expected = victim.logits(draws).softmax(1).view(3, len(x), 10).mean(0)
    assert torch.allclose(through.logits(x).exp(), expected, atol=1e-6)


def test_an_attack_through_the_defense_beats_one_that_does_not_know_it(digits: Digits) -> None:
    victim, x, y = digits
    defense = Smoothing()
    static = victim_accuracy(defended(victim, defense), PGD(epsilon=0.12)(victim, x, y).x_adv, y)
    adaptive = victim_accuracy(defended(victim, defense), PGD(epsilon=0.12)(defended(victim, defense), x, y).x_adv, y)
    assert adaptive < static - 0.1


def victim_accuracy(victim: Victim, x: torch.Tensor, y: torch.Tensor) -> float:
    return rate(victim.logits(x).argmax(1) == y)


def test_mistakes(digits: Digits) -> None:
    victim, _, _ = digits
    for options, sentence in (
        (("smooth", {}), "did you mean 'smoothing'"),
        (("smoothing", {"bits": 2}), "has no option bits; it takes sigma, size"),
        (("smoothing", {"size": 4}), "size must be an odd number"),
        (("noise", {"sigma": "much"}), "sigma must be a number above 0"),
        (("jpeg", {"quality": 0}), "quality must be"),
        (("bit-depth", {"bits": 9}), "bits must be"),
        (("resize-pad", {"smallest": 1.5}), "smallest must be"),
    ):
        with pytest.raises(UserError, match=sentence):
            make_defense(options[0], **options[1])
    with pytest.raises(UserError, match="eot"):
        defended(victim, Noise(), eot=0)
    for large in (Smoothing(size=17), Median(size=17)):
        with pytest.raises(UserError, match="too large for images of 8 x 8"):
            large(torch.rand(2, 1, 8, 8))
    points = defended(Victim(nn.Linear(4, 2)), Median())
    with pytest.raises(UserError, match="is for images"):
        FGSM()(points, torch.rand(3, 4))


def test_the_victim_comes_out_as_it_went_in(digits: Digits) -> None:
    victim, x, y = digits
    net, defense = victim.module, BitDepth()
    assert isinstance(net, nn.Module)
    net.train()
    defense.train()
    PGD(steps=2)(defended(victim, defense, bpda=True), x, y)
    assert net.training
    assert defense.training
    assert all(parameter.grad is None for parameter in net.parameters())
    net.eval()

import gymnasium as gym
import numpy as np
import pytest
import torch

import rltool
from rltool.agents import PPO
from rltool.errors import UserError
from rltool.gan.config import GANConfig, SNGANConfig, WGANConfig, WGANGPConfig
from rltool.gan.learner import GAN, SNGAN, WGAN, WGANGP
from rltool.gan.losses import LOSSES
from rltool.gan.networks import Discriminator, Generator
from rltool.gan.unrolling import unrolled
from rltool.supervised import Classifier, ClassifierConfig
from rltool.training.optimizers import Adam
from rltool.validation import validate

SMALL = {"hidden_sizes": (16,), "batch_size": 16, "noise_size": 4}


def test_networks_keep_to_the_range_of_the_data():
    generator = Generator(GANConfig(**SMALL), (1, 8, 8))
    images = generator(10 * generator.noise(32))
    assert images.shape == (32, 1, 8, 8)
    assert 0 <= images.min() < images.max() <= 1
    points = torch.tensor([[100.0, -3.0], [104.0, -3.0]])
    generator, discriminator = Generator(GANConfig(**SMALL), (2,)), Discriminator(GANConfig(**SMALL), (2,))
    for network in (generator, discriminator):
        network.normalize_by(points)
    assert generator.mean.tolist() == [102.0, -3.0]
    assert float(generator.std) == pytest.approx(2**0.5)  # Over both coordinates: directions stay as they are.
    seen = []
    discriminator.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    assert discriminator(points).shape == (2,)
    assert seen[0].abs().max() == pytest.approx(2**0.5)


def test_a_pack_is_judged_as_one():
    discriminator = Discriminator(GANConfig(**SMALL, pack=4), (2,))
    x = torch.randn(8, 2)
    logits = discriminator(x)
    assert logits.shape == (2,)
    x[3] += 1
    changed = discriminator(x)
    assert changed[0] != logits[0]
    assert changed[1] == logits[1]
    with pytest.raises(UserError, match="smaller --pack"):
        Discriminator(GANConfig(**SMALL, pack=8), (1, 8, 8))


@pytest.mark.parametrize("backbone", ["lstm", "transformer"])
def test_backbones_with_memory_do_not_judge(backbone):
    with pytest.raises(UserError):
        Discriminator(GANConfig(backbone=backbone, sequence="time"), (2,))


@pytest.mark.parametrize("penalty", ["gradient", "r1", "dragan"])
@pytest.mark.parametrize("how", [{"batch_norm": True}, {"backbone": "resnet", "resnet_norm": "batch"}])
def test_batch_norm_under_a_penalty_is_refused(penalty, how):
    with pytest.raises(UserError, match="which batch norm mixes; take layer norm"):
        validate(GANConfig, {"penalty": penalty, **how})
    assert validate(GANConfig, {"penalty": penalty, "layer_norm": True}).layer_norm
    assert validate(GANConfig, how)


def test_other_options_that_do_not_fit():
    with pytest.raises(UserError, match="multiple of pack"):
        validate(GANConfig, {"batch_size": 10, "pack": 4})
    with pytest.raises(UserError, match="take --optimizer adam"):
        validate(WGANConfig, {"unrolled_steps": 2})
    with pytest.raises(UserError, match="for images"):
        GAN("ring8", GANConfig(**SMALL, augment=("shift",))).prepare()


class Distance(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.center = torch.nn.Parameter(torch.zeros(2))

    def forward(self, x):
        return -(x - self.center).square().sum(1)


def test_unrolling_foresees_what_adam_will_do_and_lets_gradients_through():
    torch.manual_seed(0)
    discriminator = Distance()
    optimizer = Adam(discriminator, 0.1, betas=(0.5, 0.9), epsilon=1e-8)
    real, fake = torch.randn(8, 2), torch.randn(8, 2, requires_grad=True)
    loss = LOSSES["non-saturating"].discriminator
    optimizer.descend(loss(discriminator(real), discriminator(fake.detach())))
    before = optimizer.parameters.clone()
    ahead = unrolled(discriminator, optimizer, lambda judge: loss(judge(real), judge(fake)), 3)
    foreseen = ahead(real).detach()
    (through,) = torch.autograd.grad(ahead(real).sum(), fake)
    assert torch.equal(optimizer.parameters, before)
    assert through.abs().sum() > 0  # Only the steps ahead depend on the fakes here.
    for _ in range(3):
        optimizer.descend(loss(discriminator(real), discriminator(fake.detach())))
    assert torch.allclose(discriminator(real), foreseen, atol=1e-6)


def test_clipped_weights_and_spectral_norms_stay_within_their_bounds():
    learner = WGAN("ring8", WGANConfig(**SMALL, learning_rate=0.01)).learn(5)
    largest = max(float(p.detach().abs().max()) for p in learner.model.discriminator.parameters())
    assert largest == pytest.approx(0.01)
    learner = SNGAN("ring8", SNGANConfig(**SMALL)).learn(40)
    for layer in (learner.model.discriminator.backbone.layers[0], learner.model.discriminator.head.linear):
        assert float(torch.linalg.matrix_norm(layer.weight.detach(), 2)) == pytest.approx(1, abs=0.05)


def test_each_step_trains_its_own_network():
    learner = WGANGP("ring8", WGANGPConfig(**SMALL, discriminator_steps=3))
    calls = []
    for name in ("generator", "discriminator"):
        optimizer = getattr(learner, f"{name}_optimizer")
        optimizer.descend = lambda loss, name=name, whole=optimizer.descend: (calls.append(name), whole(loss))
    learner.learn(2)
    assert calls == ["discriminator"] * 3 + ["generator"] + ["discriminator"] * 3 + ["generator"]
    assert all(p.requires_grad for p in learner.model.discriminator.parameters())
    # The generator's step asks for no gradient of the discriminator's weights.
    gradient = learner.discriminator_optimizer.gradient
    kept = gradient.clone()
    learner.total_timesteps = 10
    learner.config = learner.config.model_copy(update={"discriminator_steps": 0})
    learner.discriminator_loss = lambda: pytest.fail("no step of it was asked for")
    learner.train_step()
    assert torch.equal(gradient, kept)


def test_the_mean_generator_makes_the_samples():
    learner = GAN("ring8", GANConfig(**SMALL, ema=0.9, learning_rate=0.01))
    weights = []
    learner.learn(3, lambda learner, _: weights.append(learner.generator_optimizer.parameters.clone()))
    start = torch.nn.utils.parameters_to_vector(GAN("ring8", GANConfig(**SMALL)).model.generator.parameters()).detach()
    expected = start
    for k, each in enumerate(weights):
        expected = torch.lerp(expected, each, 1 - min(0.9, (1 + k) / (10 + k)))
    mean = torch.nn.utils.parameters_to_vector(learner.averaged.parameters()).detach()
    assert torch.allclose(mean, expected, atol=1e-6)
    assert not torch.allclose(mean, weights[-1], atol=1e-4)


def test_samples_are_decided_by_their_seed():
    learner = GAN("ring8", GANConfig(**SMALL))
    assert learner.sample(3_000).shape == (3_000, 2)
    assert np.array_equal(learner.sample(3_000, 1), learner.sample(3_000, 1))
    assert not np.array_equal(learner.sample(8, 1), learner.sample(8, 2))
    with pytest.raises(UserError, match="without conditions"):
        learner.read_condition("7", 3)


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_both_step_sizes_follow_the_schedule(schedule):
    learner = GAN("ring8", GANConfig(**SMALL, schedule=schedule, learning_rate=0.1, generator_learning_rate=0.2))
    rates = []
    learner.learn(4, lambda learner, _: rates.append(learner.generator_optimizer.learning_rate))
    expected = {"constant": [1, 1, 1], "linear": [1, 0.75, 0.5], "cosine": [1, 0.5 + 0.5**1.5, 0.5]}[schedule]
    assert [rate / 0.2 for rate in rates[:3]] == pytest.approx(expected)
    assert learner.discriminator_optimizer.learning_rate == pytest.approx(rates[-1] / 2)


CASES = {
    "wgan-gp": (WGANGP, "ring8", WGANGPConfig(**SMALL, ema=0.9, schedule="linear", dropout=0.1)),
    "images": (
        SNGAN,
        "digits",
        SNGANConfig(batch_size=8, noise_size=4, augment=("shift", "color", "cutout"), generator_batch_norm=True),
    ),
    "options": (
        GAN,
        "ring8",
        GANConfig(**SMALL, pack=2, unrolled_steps=1, feature_matching=1.0, loss="relativistic", penalty="dragan"),
    ),
    "wgan": (WGAN, "ring8", WGANConfig(**SMALL, batch_norm=True)),
}


@pytest.mark.parametrize("name", CASES)
def test_going_on_is_exact(name):
    kind, data, config = CASES[name]
    whole, kept = kind(data, config), []
    whole.learn(8, lambda learner, _: kept.append(learner.checkpoint()) if learner.timesteps == 3 else None)
    again = kind(data, config)
    assert again.restore(kept[0])
    torch.manual_seed(123)  # What others draw is no matter.
    again.learn(8, resume=True)
    one, two = (learner.checkpoint() for learner in (whole, again))
    assert one.tensors.keys() == two.tensors.keys()
    assert [n for n in one.tensors if not torch.equal(one.tensors[n], two.tensors[n])] == []
    assert one.values == two.values


def test_training_leaves_the_random_numbers_of_others_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    learner = GAN("ring8", GANConfig(**SMALL)).learn(2)
    learner.evaluate(100)
    assert torch.equal(torch.rand(3), expected)


def test_saved_and_loaded_it_makes_the_same_samples(tmp_path):
    learner = WGANGP("ring8", WGANGPConfig(**SMALL, ema=0.9)).learn(3)
    learner.save(tmp_path / "gan.safetensors")
    loaded = WGANGP.load(tmp_path / "gan.safetensors")
    assert np.array_equal(loaded.sample(50, 3), learner.sample(50, 3))
    x = learner.real[:5]
    assert torch.equal(loaded.model.discriminator(x), learner.model.discriminator(x))
    with pytest.raises(UserError, match="holds no gan"):
        GAN.load(tmp_path / "gan.safetensors")


def test_a_critic_starts_a_classifier_and_the_other_way_round():
    gan = GAN("digits", GANConfig(batch_size=4)).learn(1)
    classifier = Classifier(ClassifierConfig(backbone="cnn"), (1, 8, 8), 10)
    gan.init_backbone(classifier)
    mine, theirs = gan.model.backbone.state_dict(), classifier.backbone.state_dict()
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
    gan.learn(1)
    learner = rltool.supervised.ClassifierLearner("digits", ClassifierConfig(backbone="cnn"))
    learner.init_backbone(gan.model)
    assert torch.equal(
        learner.model.backbone.convolutions[0].weight, gan.model.discriminator.backbone.convolutions[0].weight
    )
    with pytest.raises(UserError, match="does not fit"):
        GAN("ring8", GANConfig(**SMALL)).init_backbone(classifier)
    with pytest.raises(UserError, match="no backbone"):
        gan.init_backbone(object())


class Images(gym.Env):
    """Images of the size of the digits, and nothing to do."""

    observation_space = gym.spaces.Box(0, 1, (1, 8, 8), np.float32)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros((1, 8, 8), np.float32), {}


def test_a_critic_starts_an_agent():
    gan = WGANGP("digits", WGANGPConfig(batch_size=4)).learn(1)
    agent = PPO(Images(), backbone="cnn", num_steps=16, batch_size=16)
    agent.init_backbone(gan.model)
    theirs = gan.model.backbone.state_dict()
    assert all(torch.equal(weight, theirs[name]) for name, weight in agent.policy.backbone.state_dict().items())


@pytest.mark.filterwarnings("error")
def test_a_generator_that_makes_no_numbers_is_filmed_without_a_word():
    gan = GAN("digits", GANConfig(batch_size=4, noise_size=4))
    with torch.no_grad():
        gan.generator_optimizer.parameters.fill_(float("nan"))
    gan.take_frame()  # That figures stopped being finite is said by who records them.
    assert gan.film["samples"][0].dtype == torch.uint8


def test_a_discriminator_that_wins_outright_is_noticed():
    gan = GAN("ring8", GANConfig(**SMALL))
    assert gan.has_won([1.3, 1.2, 0.8, 0.001])
    assert not gan.has_won([0.001, 0.001, 0.001, 1.2])  # It was only ahead at first.
    assert not gan.has_won([])
    wgan = WGANGP("ring8", WGANGPConfig(**SMALL))
    assert not wgan.has_won([-20.0, -30.0])


@pytest.mark.slow
def test_the_ring_is_learned_by_its_preset(tmp_path):
    run = rltool.train("wgan-gp", "ring8", run_dir=str(tmp_path))
    result = run.agent.evaluate(2_500, seed=1)
    assert result["modes"] == 8
    assert result["high_quality"] >= 0.85
    assert result["kl"] <= 0.02

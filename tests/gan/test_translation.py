import gymnasium as gym
import numpy as np
import pytest
import torch

import rltool
from rltool.errors import UserError
from rltool.gan.cyclegan import CycleGAN, ImagePool
from rltool.gan.observations import TranslatedObservation
from rltool.gan.pix2pix import Pix2Pix
from rltool.gan.translation_config import CycleGANConfig, Pix2PixConfig
from rltool.training.checkpoint import load_state, save_state
from rltool.validation import validate

PAIR = "digits:digits~inverted"
SMALL = {"translator_channels": (8, 8), "translator_blocks": 0, "batch_size": 16, "learning_rate": 2e-3}
KINDS = {"pix2pix": (Pix2Pix, Pix2PixConfig), "cyclegan": (CycleGAN, CycleGANConfig)}


def make(method, data=PAIR, **options):
    learner, config = KINDS[method]
    return learner(data, config(**{**SMALL, **options}))


def test_pix2pix_learns_to_invert(nearest_mean):
    learner = make("pix2pix").learn(150)
    figures = learner.evaluate()
    assert figures["l1"] < 0.1
    assert figures["class_kept"] > 0.8
    assert figures["class_untranslated"] < 0.3
    assert figures["score"] == 0


def test_pix2pix_with_a_weight_of_zero(monkeypatch):
    supervised, seen = make("pix2pix", adversarial_weight=0), []
    monkeypatch.setattr(supervised, "judge", None)  # Nobody is asked.
    loss, figures = supervised.generator_loss()
    assert set(figures) == {"l1"}
    assert torch.isclose(loss, 100 * figures["l1"])
    supervised.learn(1, lambda _, figures: seen.append(set(figures)))
    assert seen == [{"l1"}]  # Nor taught.
    adversarial = make("pix2pix", l1_weight=0)
    loss, figures = adversarial.generator_loss()
    assert torch.isclose(loss, figures["generator_loss"])


def test_pix2pix_judges_pairs():
    learner = make("pix2pix")
    batch = learner.batch()
    assert torch.allclose(batch.x + batch.condition, torch.ones(()))
    assert learner.model.discriminator.shape == (2, 8, 8)
    right, wrong = (learner.judge(batch.x, condition) for condition in (batch.condition, batch.condition.flip(0)))
    assert (right != wrong).any()


def test_pix2pix_needs_pairs(tmp_path):
    np.savez(tmp_path / "other.npz", x=np.random.default_rng(0).random((50, 8, 8)), y=np.arange(50) % 2)
    with pytest.raises(UserError) as error:
        make("pix2pix", f"digits:{tmp_path / 'other.npz'}").prepare()
    assert str(error.value) == (
        "pix2pix learns from pairs, row by row, and digits (1,438 examples) and other (40) are not: their labels "
        "differ; take cyclegan"
    )


def test_cyclegan_never_sees_a_pair():
    learner = make("cyclegan")
    assert len(learner.sources) == len(learner.real) == 719
    seen = {row.numpy().tobytes() for row in learner.sources}
    assert sum((1 - row).numpy().tobytes() in seen for row in learner.real) < 5
    batch = learner.batch()
    assert (batch.x + batch.condition - 1).abs().mean() > 0.2


def test_cyclegan_learns_to_invert_without_pairs(nearest_mean):
    learner = make("cyclegan").learn(150)
    figures = learner.evaluate()
    assert figures["class_kept"] > 0.7
    assert figures["class_kept_back"] > 0.7
    assert figures["class_untranslated"] < 0.3
    assert figures["cycle_l1"] < 0.15


def test_the_loss_of_cyclegan():
    learner = make("cyclegan", cycle_weight=3.0, identity_weight=2.0)
    loss, figures = learner.generator_loss()
    expected = figures["generator_loss"] + 3 * 2 * figures["cycle_l1"] + 2 * 2 * figures["identity_l1"]
    assert torch.isclose(loss, expected)

    class Same(torch.nn.Module):
        def forward(self, x):
            return x

    learner.model.generator.there = learner.model.generator.back = Same()
    _, figures = learner.generator_loss()
    assert figures["cycle_l1"] == figures["identity_l1"] == 0


@pytest.mark.parametrize("loss", ["non-saturating", "relativistic", "wasserstein"])
def test_other_losses_and_penalties(loss):
    learner = make("cyclegan", loss=loss, penalty="gradient", augment=("shift",)).learn(2)
    assert np.isfinite(learner.sample(4)).all()


def test_the_pool_exchanges_half():
    torch.manual_seed(0)
    pool = ImagePool(40, (1, 1, 1), torch.device("cpu"))
    first = torch.arange(40.0).reshape(-1, 1, 1, 1)
    assert torch.equal(pool.exchange(first[:25]), first[:25])
    assert torch.equal(pool.exchange(first[25:]), first[25:])
    new = 100 + torch.arange(30.0).reshape(-1, 1, 1, 1)
    mixed = pool.exchange(new)
    old = mixed < 100
    assert 8 <= old.sum() <= 22
    assert torch.equal(mixed[~old], new[~old])
    assert torch.equal(torch.cat([pool.images, mixed]).flatten().sort()[0], torch.cat([first, new]).flatten())
    nothing = ImagePool(0, (1, 1, 1), torch.device("cpu"))
    assert torch.equal(nothing.exchange(new), new)


@pytest.mark.parametrize("method", KINDS)
def test_training_goes_on_bit_for_bit(method, tmp_path):
    options = {"ema": 0.9, **({"pool_size": 20} if method == "cyclegan" else {})}
    whole, half = make(method, **options).learn(8), make(method, **options)
    half.learn(8, lambda learner, _: learner.timesteps < 4)
    save_state(tmp_path / "half.safetensors", half.checkpoint())
    again = make(method, **options)
    assert again.restore(load_state(tmp_path / "half.safetensors"))
    again.learn(8, resume=True)
    one, two = whole.checkpoint(), again.checkpoint()
    assert one.values == two.values
    assert all(torch.equal(one.tensors[name], two.tensors[name]) for name in one.tensors)


def test_domains_of_other_colors():
    learner = make("cyclegan", "digits:digits~coloured").learn(1)
    assert learner.sample(3).shape == (3, 3, 8, 8)
    assert learner.translate(learner.pair.target.test.x[:2], back=True).shape == (2, 3, 8, 8)


@pytest.mark.parametrize(
    ("config", "options", "sentence"),
    [
        (Pix2PixConfig, {"adversarial_weight": 0, "l1_weight": 0}, "leaves nothing to learn by"),
        (Pix2PixConfig, {"augment": ("shift",)}, "pix2pix has no use for augment"),
        (CycleGANConfig, {"feature_matching": 1.0}, "cyclegan has no use for feature-matching"),
    ],
)
def test_options_without_use(config, options, sentence):
    with pytest.raises(UserError, match=sentence):
        validate(config, options)


def test_points_are_not_translated():
    with pytest.raises(UserError, match="translators map images to images"):
        make("cyclegan", "moons:moons@40deg")


@pytest.fixture(scope="module")
def translator(tmp_path_factory):
    run = rltool.train(
        "cyclegan", PAIR, total_timesteps=2, eval_freq=0, preset="none", run_dir=str(tmp_path_factory.mktemp("runs")),
        callback=lambda learner, _: False, **SMALL,  # What is not finished is not measured.
    )  # fmt: skip
    return run


class Frames(gym.Env):
    """The same image over and over."""

    def __init__(self, image):
        self.image = image
        self.observation_space = gym.spaces.Box(0, 255 if image.dtype == np.uint8 else 1, image.shape, image.dtype)
        self.action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        return self.image, {}

    def step(self, action):
        return self.image, 0.0, False, False, {}


@pytest.mark.parametrize("back", [True, False])
@pytest.mark.parametrize("shape", [(1, 9, 10), (9, 10, 1), (9, 10)])
def test_observations_are_translated(translator, shape, back):
    image = np.random.default_rng(0).random((9, 10)).astype(np.float32)
    options = {"back": True} if back else {}
    expected = translator.agent.translate(image[None, None], **options)[0, 0].reshape(shape)
    env = TranslatedObservation(Frames(image.reshape(shape)), str(translator.path), back)
    assert np.allclose(env.reset()[0], expected, atol=1e-6)
    as_bytes = (image * 255).round().astype(np.uint8)
    env = TranslatedObservation(Frames(as_bytes.reshape(shape)), str(translator.path), back)
    made = env.step(0)[0]
    assert made.dtype == np.uint8
    assert np.abs(made / 255 - expected).max() < 0.02
    assert env.observation_space.contains(made)


def test_observations_that_do_not_fit(translator):
    run = str(translator.path)
    with pytest.raises(UserError, match="observations have 3 channels, and"):
        TranslatedObservation(Frames(np.zeros((8, 9, 3), np.uint8)), run)
    with pytest.raises(UserError, match="only images are translated"):
        TranslatedObservation(Frames(np.zeros(4, np.float32)), run)

import numpy as np
import pytest
import torch

from rltool.errors import UserError
from rltool.gan.conditional import ConditionalGAN, Vocabulary
from rltool.gan.conditional_config import ConditionalGANConfig
from rltool.training.checkpoint import load_state, save_state
from rltool.validation import validate


@pytest.fixture(scope="session")
def blobs(tmp_path_factory):
    """Points around four corners; the class is a word for each coordinate."""
    rng = np.random.default_rng(0)
    y = np.arange(400) % 4
    x = np.stack([y % 2, y // 2], 1) * 4 - 2 + 0.1 * rng.standard_normal((400, 2))
    file = tmp_path_factory.mktemp("data") / "blobs.npz"
    np.savez(file, x=x, y=y)
    return str(file)


def make(data, **options):
    return ConditionalGAN(data, ConditionalGANConfig(hidden_sizes=(32, 32), batch_size=64, **options))


NAMES = ("left-low", "right-low", "left-high", "right-high")


def test_labels_are_a_token_each_and_words_are_shared():
    labels, words = (Vocabulary.of(NAMES, kind) for kind in ("label", "words"))
    assert labels.tokens.tolist() == [[1], [2], [3], [4]]
    assert words.words == ("left", "low", "right", "high")
    assert words.tokens.tolist() == [[1, 2], [3, 2], [1, 4], [3, 4]]
    assert words.encode("right high").tolist() == [3, 4]
    assert words.encode("right-high").tolist() == [3, 4]
    assert words.encode("high").tolist() == [4, 0]
    assert labels.encode("left-high").tolist() == [3]
    assert Vocabulary.of(("a", "b c"), "words").tokens.tolist() == [[1, 0], [2, 3]]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("right hig", "no condition 'hig'; did you mean 'high'?"),
        ("low low low", "'low low low' has 3 words; ask for a condition of 1 to 2"),
        ("", "'' has 0 words; ask for a condition of 1 to 2"),
    ],
)
def test_unknown_conditions(text, sentence):
    with pytest.raises(UserError) as error:
        Vocabulary.of(NAMES, "words").encode(text)
    assert str(error.value) == sentence


def test_the_projection_is_the_inner_product_of_features_and_direction(blobs):
    discriminator = make(blobs).model.discriminator
    x, tokens = torch.randn(5, 2), torch.tensor([[1], [2], [3], [4], [1]])
    difference = discriminator(x, tokens) - discriminator(x)
    direction = discriminator.direction(discriminator.encoder(tokens))
    assert torch.allclose(difference, (discriminator.features(x) * direction).sum(1), atol=1e-6)


@pytest.mark.parametrize("backbone", ["mlp", "lstm", "gru", "transformer"])
@pytest.mark.parametrize("conditioning", ["projection", "concatenation"])
def test_every_weight_learns(blobs, conditioning, backbone):
    learner = make(
        blobs, conditioning=conditioning, condition_backbone=backbone, condition="words", condition_size=8, num_heads=2
    )
    for loss, network in (
        (learner.discriminator_loss()[0], learner.model.discriminator),
        (learner.generator_loss()[0], learner.model.generator),
    ):
        learner.model.zero_grad()
        loss.backward()
        idle = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum()]
        # A condition of one token has nothing to remember or to attend to.
        assert all(
            "encoder" in name and any(part in name for part in ("bias", "key", "query", "_hh_")) for name in idle
        ), idle


def test_mismatched_pairs_are_real_examples_with_another_condition(blobs, monkeypatch):
    learner = make(blobs)
    judged = []

    def judge(x, condition=None):
        judged.append((x, condition))
        return learner.model.discriminator(x, condition)

    monkeypatch.setattr(learner, "judge", judge)
    loss, figures = learner.discriminator_loss()
    (_, _), (_, _), (x, right), (same, wrong) = judged
    assert x is same
    label = (x[:, 0] > 0).long() + 2 * (x[:, 1] > 0).long()
    assert (right[:, 0] == 1 + label).all()
    assert (wrong != right).all()
    assert 1 <= wrong.min() <= wrong.max() <= 4
    assert torch.isclose(loss, figures["discriminator_loss"] + figures["mismatch_loss"])
    assert "mismatch_loss" not in make(blobs, mismatched=False).discriminator_loss()[1]


def test_what_is_asked_for_is_made(blobs):
    learner = make(blobs, noise_size=2, learning_rate=2e-3, penalty="r1", penalty_weight=0.1).learn(400)
    for label, corner in enumerate([(-2, -2), (2, -2), (-2, 2), (2, 2)]):
        samples = learner.sample(100, condition=learner.read_condition(str(label), 100))
        assert (np.sign(samples) == np.sign(corner)).all(1).mean() > 0.9
    in_turn = learner.sample(8, seed=3)
    assert np.allclose(in_turn[[1, 5]], learner.sample(8, seed=3, condition=learner.read_condition("1", 8))[[1, 5]])


def test_training_goes_on_bit_for_bit(blobs, tmp_path):
    whole, half = make(blobs, ema=0.9).learn(20), make(blobs, ema=0.9)
    half.learn(20, lambda learner, _: learner.timesteps < 10)
    save_state(tmp_path / "half.safetensors", half.checkpoint())
    again = make(blobs, ema=0.9)
    assert again.restore(load_state(tmp_path / "half.safetensors"))
    again.learn(20, resume=True)
    one, two = whole.checkpoint(), again.checkpoint()
    assert one.values == two.values
    assert all(torch.equal(one.tensors[name], two.tensors[name]) for name in one.tensors)


def test_a_saved_generator_does_without_the_data(blobs, tmp_path):
    learner = make(blobs, condition="words").learn(2)
    learner.data = "gone.npz"
    learner.save(tmp_path / "model.safetensors")
    loaded = ConditionalGAN.load(tmp_path / "model.safetensors")
    assert np.array_equal(loaded.sample(5), learner.sample(5))
    assert loaded.classes == learner.classes


def test_data_without_labels(tmp_path):
    np.savez(tmp_path / "x.npz", x=np.random.default_rng(0).normal(size=(40, 2)))
    with pytest.raises(UserError, match=r"has no labels to ask for; train a GAN without conditions: rltool train gan"):
        make(str(tmp_path / "x.npz"))


@pytest.mark.parametrize("option", [{"pack": 2}, {"unrolled_steps": 1}])
def test_options_without_use(option):
    with pytest.raises(UserError, match="cgan has no use for"):
        validate(ConditionalGANConfig, option)

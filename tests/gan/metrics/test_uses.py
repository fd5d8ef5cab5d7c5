"""What generators are good for: examples for a classifier, and images that an attacked one is projected on."""

import numpy as np
import pytest
import torch

import rltool
from rltool.attacks.defenses import make_defense
from rltool.data import Dataset, Part, load_dataset
from rltool.errors import UserError
from rltool.gan.extractor import Extractor
from rltool.gan.labeling import label_samples
from rltool.supervised import ClassifierConfig, ClassifierLearner

TINY = {"backbone": "mlp", "hidden_sizes": (16,), "total_timesteps": 30, "eval_freq": 0, "preset": "none"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    made = {
        name: rltool.train(method, data, run_dir=str(folder), name=name, **TINY)
        for name, method, data in (("asked", "cgan", "digits"), ("plain", "gan", "digits"), ("points", "gan", "moons"))
    }
    return {name: str(run.path) for name, run in made.items()}


def learner(runs, name, **options):
    return ClassifierLearner("digits", ClassifierConfig(hidden_sizes=(8,), augment_with=runs[name], **options))


def test_a_share_of_what_is_learned_from_is_generated(runs):
    plain = ClassifierLearner("digits", ClassifierConfig(hidden_sizes=(8,))).examples
    (x, y), (held_out, _) = learner(runs, "asked", augment_share=0.25).examples
    real = len(plain[0][0])
    assert len(x) - real == round(real / 3)
    assert torch.equal(x[:real], plain[0][0])
    assert torch.equal(held_out, plain[1][0])  # Only real examples choose the best weights.
    made = rltool.load(runs["asked"]).agent.sample(len(x) - real, seed=0)
    assert np.array_equal(x[real:].numpy(), made)
    assert y[real:].tolist() == [k % 10 for k in range(len(made))]


def test_learning_from_generated_examples_is_the_same_again(runs, tmp_path):
    options = {"preset": "none", "total_timesteps": 600, "augment_with": runs["asked"], "run_dir": str(tmp_path)}
    one, two = (rltool.train("classifier", "digits", hidden_sizes=(8,), backbone="mlp", **options) for _ in range(2))
    assert one.summary["test_accuracy"] == two.summary["test_accuracy"]


def test_generators_that_do_not_fit(runs, tmp_path):
    with pytest.raises(UserError, match=r"examples \(2,\) of 2 classes, but those of digits are \(1, 8, 8\) of 10"):
        learner(runs, "points")
    classifier = rltool.train("classifier", "digits", run_dir=str(tmp_path), **{**TINY, "total_timesteps": 64})
    with pytest.raises(UserError, match="generates no examples with labels"):
        learner({"it": str(classifier.path)}, "it")
    with pytest.raises(UserError, match="there is no run nowhere"):
        learner({"it": "nowhere"}, "it")


def test_samples_without_labels_get_those_that_a_classifier_is_sure_of(monkeypatch):
    part = Part(np.zeros((20, 1, 2, 2), np.float32), np.zeros(20, np.int64))
    data = Dataset("gray", part, part, ("dark", "light"))

    def see(x):
        light = x.mean((1, 2, 3), dtype=np.float64)
        return light[:, None], np.stack([1 - light, light], 1)

    monkeypatch.setattr("rltool.gan.labeling.find_extractor", lambda data: Extractor("mean", see))

    def sample(n, seed):
        return np.ones((n, 1, 2, 2), np.float32) * np.random.default_rng(seed).random((n, 1, 1, 1), np.float32)

    x, y = label_samples(sample, data, 700, seed=0)
    light = x.mean((1, 2, 3))
    assert len(x) == 700
    assert ((light <= 0.1) | (light >= 0.9)).all()
    assert np.array_equal(y, light > 0.5)
    with pytest.raises(UserError, match="sure of too few"):
        label_samples(lambda n, seed: sample(n, seed) * 0.1 + 0.4, data, 700, seed=0)


def test_points_are_given_no_labels(runs):
    with pytest.raises(UserError, match="has no labels, or holds points"):
        rltool.load(runs["points"]).agent.labeled_samples(10)


def test_a_run_is_the_generator_that_images_are_projected_on(runs):
    x = torch.from_numpy(load_dataset("digits").test.x[:6])
    defense = make_defense("projection", run=runs["plain"], descent=40, starts=3).fit(x)
    projected = defense(x)
    assert projected.shape == x.shape
    made = torch.from_numpy(rltool.load(runs["plain"]).agent.sample(300))
    nearest = torch.cdist(x.flatten(1), made.flatten(1)).min(1).values
    found = (projected - x).flatten(1).norm(dim=1)
    assert (found < nearest + 0.05).all()  # As near as the nearest of many samples.
    assert not torch.equal(defense(made[:4]), made[:4])
    assert float((defense(made[:4]) - made[:4]).flatten(1).norm(dim=1).mean()) < float(nearest.mean())


def test_generators_that_nothing_is_projected_on(runs):
    with pytest.raises(UserError, match=r"the generator makes \(2,\), but the inputs here are \(1, 8, 8\)"):
        make_defense("projection", run=runs["points"]).fit(torch.rand(4, 1, 8, 8))
    with pytest.raises(UserError, match="samples of noise alone"):
        make_defense("projection", run=runs["asked"])
    with pytest.raises(UserError, match="there is no run nowhere"):
        make_defense("projection", run="nowhere")

import json

import numpy as np
import pytest
import torch

import rltool
from rltool.errors import UserError
from rltool.networks.backbone import build_backbone
from rltool.networks.config import BackboneConfig
from rltool.supervised import Classifier, ClassifierConfig, ClassifierLearner


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return rltool.train(
        "classifier", "digits", backbone="cnn", total_timesteps=6_000, run_dir=str(tmp_path_factory.mktemp("runs"))
    )


def test_digits_are_learned_and_the_run_says_so(run):
    assert run.summary["test_accuracy"] > 0.93
    assert run.agent.test()["accuracy"] == run.summary["test_accuracy"]
    assert isinstance(run.model, Classifier)
    assert (run.path / "learning_curve.png").exists()


def test_inputs_are_normalized_inside(run):
    x = run.agent.examples[0][0]
    seen = []
    handle = run.model.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    run.model(x)
    handle.remove()
    assert abs(float(seen[0].mean())) < 1e-4
    assert float(seen[0].std()) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "rmsprop"])
def test_going_on_is_exact(tmp_path, optimizer):
    config = ClassifierConfig(hidden_sizes=(16,), dropout=0.2, optimizer=optimizer, warmup=0.1, augment=("shift",))
    whole = ClassifierLearner("digits", config)
    kept = []

    def keep(learner, _):
        if learner.updates == 25:
            kept.append(learner.checkpoint())

    whole.learn(3_000, keep)
    again = ClassifierLearner("digits", config, seed=0)
    again.restore(kept[0])
    again.learn(3_000, resume=True)
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, again.model.state_dict()[name]), name


def test_a_backbone_starts_another_classifier(run, tmp_path):
    learner = ClassifierLearner("digits", ClassifierConfig(backbone="cnn"), seed=5)
    learner.init_backbone(run.model)
    theirs = run.model.backbone.state_dict()
    assert all(torch.equal(t, theirs[n]) for n, t in learner.model.backbone.state_dict().items())
    with pytest.raises(UserError, match="does not fit"):
        ClassifierLearner("digits", ClassifierConfig(backbone="impala")).init_backbone(run.model)


def test_cnn_of_large_images_is_unchanged():
    import gymnasium as gym

    cnn = build_backbone(BackboneConfig(backbone="cnn"), gym.spaces.Box(0, 255, (4, 84, 84), np.uint8))
    assert [tuple(c.kernel_size) for c in cnn.convolutions if hasattr(c, "kernel_size")] == [(8, 8), (4, 4), (3, 3)]


def test_schedule_rises_then_falls():
    learner = ClassifierLearner("digits", ClassifierConfig(hidden_sizes=(8,), schedule="linear", warmup=0.5))
    learner.total_timesteps, rates = 1_000, []
    for learner.timesteps in (0, 499, 500, 750, 1_000):
        rates.append(learner.scheduled())
    assert rates[0] < rates[1]
    assert rates[2:] == [1.0, 0.5, 0.0]


def test_summary_is_json(run):
    assert json.loads((run.path / "summary.json").read_text())["finished"]

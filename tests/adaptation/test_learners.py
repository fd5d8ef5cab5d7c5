"""What methods of adaptation learn, and what they must not know."""

import json

import numpy as np
import pytest
import torch

from rltool.adaptation.batch_norm import adapt_statistics, batch_norms
from rltool.adaptation.learner import Batch
from rltool.adaptation.losses import domain_cross_entropy
from rltool.networks.backbone import evaluating
from rltool.supervised import Classifier, ClassifierConfig
from tests.adaptation.learning import METHOD_NAMES, MOONS, build


def test_all_methods_are_there():
    wanted = "source-only target-oracle dann coral mmd mcd cdan entropy adabn tent dirt-t adda fine-tune"
    assert set(METHOD_NAMES) >= {*wanted.split(), "universal", "erm", "irm", "vrex", "group-dro", "mixstyle"}


@pytest.mark.parametrize("method", METHOD_NAMES)
def test_going_on_is_exact(method):
    """From a checkpoint in the first half, and from one in the second, of methods with two stages."""
    whole, kept = build(method, dropout=0.1), []

    def keep(learner, _):
        if learner.updates in (5, 14):
            kept.append(learner.checkpoint())

    whole.learn(20 * 64, keep)
    for state in kept:
        again = build(method, dropout=0.1)
        assert again.restore(state)
        again.learn(20 * 64, resume=True)
        for mine, theirs in (
            (whole.model, again.model),
            (whole.averaged, again.averaged),
            (whole.beside, again.beside),
        ):
            for name, tensor in mine.state_dict().items():
                assert torch.equal(tensor, theirs.state_dict()[name]), name


@pytest.mark.parametrize("method", METHOD_NAMES)
def test_what_is_saved_answers_alike_and_the_target_is_not_told(method, tmp_path):
    learner = build(method)
    learner.learn(10 * 64)
    learner.save(tmp_path / "model.safetensors")
    loaded = type(learner).load(tmp_path / "model.safetensors")
    x = torch.from_numpy(learner.domains.target.test.x)
    assert torch.equal(learner.logits(x), loaded.logits(x))
    result = loaded.test()
    assert 0 <= result["source_accuracy"] <= 1
    assert sum(result["predicted"].values()) == pytest.approx(1)
    assert np.array(result["confusion"]).sum() == result["examples"] == 1_000
    assert json.dumps(result)


@pytest.mark.parametrize("method", [name for name in METHOD_NAMES if name not in ("target-oracle", "fine-tune")])
def test_labels_of_the_target_change_nothing(method):
    """The same weights, whatever the target's labels say."""
    trained = []
    for flipped in (False, True):
        learner = build(method)
        if flipped:
            target = learner.domains.target
            target.train.y[:] = 1 - target.train.y
        learner.learn(6 * 64)
        trained.append(learner.model.state_dict())
    assert all(torch.equal(tensor, trained[1][name]) for name, tensor in trained[0].items())


@pytest.mark.parametrize("method", ["dann", "cdan", "coral", "mmd", "mcd", "entropy", "dirt-t", "adda"])
def test_unlabeled_examples_of_the_target_change_something(method):
    learners = [build(method, data) for data in (MOONS, "moons:moons@80deg")]
    for learner in learners:
        learner.learn(20 * 64)
    one, two = (learner.model.state_dict() for learner in learners)
    assert any(not torch.equal(tensor, two[name]) for name, tensor in one.items())


def test_dann_is_the_gradient_of_the_source_minus_that_of_the_domains():
    learner = build("dann", weight=0.7, weight_schedule="constant", ema=0.0)
    learner.total_timesteps = 1
    x, y = (part[:32] for part in learner.examples[0])
    batch = learner.minibatch(np.arange(32))
    assert torch.equal(batch[0], x)
    target = learner.unlabeled[0][:32]
    loss, _ = learner.objective(Batch(x, y, target, torch.zeros(32, dtype=torch.int64)))
    weights = list(learner.model.backbone.parameters())
    found = torch.autograd.grad(loss, weights)
    source, aim = learner.features(x), learner.features(target)
    domain = learner.beside["domain"]
    apart = domain_cross_entropy(domain(source), domain(aim))
    labels = learner.classify(source, y)[0]
    expected = torch.autograd.grad(labels - 0.7 * apart, weights)
    for one, two in zip(found, expected, strict=True):
        assert torch.allclose(one, two, atol=1e-6)


def test_schedules():
    learner = build("dann", weight=2.0)
    learner.total_timesteps, strengths = 1_000, []
    for learner.timesteps in (0, 100, 1_000):
        strengths.append(learner.strength)
    assert strengths[0] == 0
    assert strengths[1] == pytest.approx(2 * 0.46212, abs=1e-4)  # 2 / (1 + e^-1) - 1.
    assert strengths[2] == pytest.approx(2, abs=1e-3)


def test_statistics_of_batch_norm_are_those_of_the_target_layer_after_layer():
    torch.manual_seed(0)
    model = Classifier(ClassifierConfig(hidden_sizes=(8, 8), batch_norm=True), (2,), 2)
    x = torch.randn(500, 2) * 3 + 1
    adapt_statistics(model, x)
    with torch.no_grad(), evaluating(model):
        seen = model.backbone.layers[:5](model.backbone.flatten(x))  # Behind the second batch norm.
    assert torch.allclose(seen.mean(0), torch.zeros(8), atol=1e-4)
    assert len(batch_norms(model)) == 2


def test_a_prior_keeps_a_single_example_from_deciding():
    torch.manual_seed(0)
    model = Classifier(ClassifierConfig(hidden_sizes=(8,), batch_norm=True), (2,), 2)
    (layer,) = batch_norms(model)
    x = torch.randn(1, 2)
    with torch.no_grad():
        hidden = model.backbone.layers[0](x)[0]
    adapt_statistics(model, x, prior=15)
    assert torch.allclose(layer.running_mean, hidden / 16)
    # Of 16 values, 15 as the source has them (mean 0, variance 1) and this one.
    assert torch.allclose(layer.running_var, 15 / 16 + hidden.square() * 15 / 256, atol=1e-6)


def test_tent_adapts_to_one_example_at_a_time_and_starts_anew():
    learner = build("tent", test_batch=1)
    learner.learn(10 * 64)
    x = torch.from_numpy(learner.domains.target.test.x[:40])
    before = {name: tensor.clone() for name, tensor in learner.averaged.state_dict().items()}
    one, two = learner.predict_stream(x), learner.predict_stream(x)
    assert torch.equal(one, two)
    assert one.shape == (40, 2)
    assert not torch.equal(one, learner.logits(x))
    assert all(torch.equal(tensor, before[name]) for name, tensor in learner.averaged.state_dict().items())


@pytest.mark.parametrize(("tune", "backbone_moves"), [("head", False), ("full", True), ("l2-sp", True)])
def test_fine_tuning_changes_what_it_says(tune, backbone_moves):
    learner, weights = build("fine-tune", tune=tune, source_share=0.5), {}

    def look(learner, _):
        if learner.timesteps == 10 * 64:
            weights["start"] = {n: t.clone() for n, t in learner.model.state_dict().items()}

    learner.learn(20 * 64, look)
    moved = {n for n, t in learner.model.state_dict().items() if not torch.equal(t, weights["start"][n])}
    assert any(name.startswith("backbone") for name in moved) == backbone_moves
    assert any(name.startswith("head") for name in moved)
    (learned, _), (stopping, _) = learner.labeled_target
    assert (len(learned), len(stopping)) == (8, 2)


def test_group_dro_counts_the_hardest_most():
    learner = build("group-dro", "moons~noisy+moons@90deg~noisy~noisy~noisy:moons", group_step=0.5)
    learner.learn(30 * 64)
    shares = learner.beside["shares"].values
    assert float(shares.sum()) == pytest.approx(1)
    assert float(shares.max()) > 0.6


def test_adda_reads_the_source_by_the_source_s_features():
    learner = build("adda", source_share=0.5, ema=0.0).learn(640)
    x, _ = learner.examples[1]
    before = learner.embed_source(x)
    with torch.no_grad():
        for weight in learner.model.backbone.parameters():
            weight.add_(1.0)
    assert torch.equal(learner.embed_source(x), before)
    assert not torch.allclose(learner.embed(x), before)
    assert learner.validation().source.equal(before)
    assert learner.evaluate()["score"] > -1
    learner.timesteps = 10  # Before the second stage, no weights are good enough.
    assert learner.evaluate()["score"] < -1_000


def test_adabn_reads_the_source_with_the_source_s_statistics():
    learner = build("adabn", batch_norm=True).learn(1_280)
    x, _ = learner.examples[1]
    seen = learner.validation()
    with torch.no_grad(), evaluating(learner.averaged):
        expected = learner.averaged(x)
    assert torch.allclose(seen.source_logits, expected)
    assert not torch.allclose(learner.logits(x), expected)


def test_a_head_is_tuned_without_moving_the_statistics_of_the_backbone():
    learner = build("fine-tune", tune="head", batch_norm=True, source_share=0.5, ema=0.0)
    kept = []

    def keep(learner, _):
        kept.append({name: tensor.clone() for name, tensor in learner.model.state_dict().items()})

    learner.learn(20 * 64, keep)
    before, after = kept[9], kept[-1]
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved
    assert all(name.startswith("head") for name in moved)

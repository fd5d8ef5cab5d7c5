import json

import numpy as np
import pytest
import torch

import rltool
from rltool.adaptation.batch_norm import adapt_statistics, batch_norms
from rltool.adaptation.checks import concept_shift
from rltool.adaptation.domains import load_domains, split_name
from rltool.adaptation.learner import Batch
from rltool.adaptation.losses import domain_cross_entropy
from rltool.adaptation.networks import DomainClassifier
from rltool.adaptation.verdict import chance_difference, collapse, compare, compare_seeds, effective_classes, h_score
from rltool.errors import TrainingError, UserError
from rltool.networks.backbone import evaluating
from rltool.supervised import Classifier, ClassifierConfig
from rltool.training.methods import METHODS

MOONS, SEVERAL = "moons:moons@40deg", "moons+moons@20deg:moons@40deg"
METHOD_NAMES = [entry.name for entry in METHODS if str(entry.target).startswith("rltool.adaptation")]
NEED_SEVERAL = ("irm", "vrex", "group-dro")
SMALL = {"hidden_sizes": (16,), "ema": 0.9}


def build(method, data=None, seed=0, **options):
    known = METHODS[method].load()
    learner = known.learner_class()(
        data or (SEVERAL if method in NEED_SEVERAL else MOONS), known.config(**{**SMALL, **options}), seed=seed
    )
    learner.prepare()
    return learner


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


def test_an_inert_domain_classifier_ends_the_training():
    learner = build("dann")
    for weight in learner.beside["domain"].parameters():
        weight.data.zero_()
    learner.side_optimizer.descend = lambda loss: None
    learner.learn(2 * 64)
    learner.learning = True
    with pytest.raises(TrainingError, match="the domain classifier does nothing"):
        learner.evaluate()


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


def test_sources_are_told_apart():
    learner = build("vrex", "digits+digits~inverted:digits@60deg", backbone="mlp")
    x = learner.examples[0][0].mean((1, 2, 3))
    assert float(x[learner.domain_of == 1].mean()) > float(x[learner.domain_of == 0].mean()) + 0.2


# Data


def test_names_of_domains(tmp_path):
    assert split_name("moons:moons@40deg") == (["moons"], "moons@40deg")
    assert split_name("stacked:digits:stacked:digits~noisy") == (["stacked:digits"], "stacked:digits~noisy")
    assert split_name("digits+digits~rotated:digits") == (["digits", "digits~rotated"], "digits")
    for wrong in ("digits", "digits:", ":digits", "a:b:c"):
        with pytest.raises(UserError, match="no pair of domains"):
            split_name(wrong)


def test_images_get_the_sources_size_and_colors(tmp_path):
    rng = np.random.default_rng(0)
    y = np.arange(60) % 10
    np.savez(tmp_path / "big.npz", x=rng.integers(0, 255, (60, 20, 20), dtype=np.uint8), y=y)
    domains = load_domains(f"digits:{tmp_path / 'big.npz'}")
    assert domains.target.train.x.shape[1:] == (1, 8, 8)
    colored = load_domains("digits+digits~rotated:digits~coloured")
    assert {each.train.x.shape[1] for each in (*colored.sources, colored.target)} == {3}


def test_a_target_without_labels_is_adapted_to(tmp_path):
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "t.npz", x=rng.normal(size=(60, 2)).astype(np.float32))
    learner = build("dann", f"moons:{tmp_path / 't.npz'}")
    learner.learn(3 * 64)
    assert "target_accuracy" not in learner.test()
    for method, sentence in (("target-oracle", "no labels"), ("fine-tune", "no labels")):
        with pytest.raises(UserError, match=sentence):
            build(method, f"moons:{tmp_path / 't.npz'}")
    with pytest.raises(UserError, match="select oracle"):
        build("dann", f"moons:{tmp_path / 't.npz'}", select="oracle")


@pytest.mark.parametrize(
    ("method", "data", "options", "sentence"),
    [
        ("dann", "moons:digits", {}, "moons holds points of 2 numbers and digits images"),
        (
            "dann",
            "moons:grid25",
            {},
            "has classes that moons lacks, which dann would take for its own; universal answers",
        ),
        ("dann", "moons+grid25:moons", {}, "moons has 2 classes and grid25 25"),
        ("dann", "digits~0-2:digits~3-9", {}, "digits~0-2 has the classes 0, 1, 2 and digits~3-9 3, 4, 5, 6, 7, ..."),
        ("fine-tune", "digits~0-5:digits~4-9", {}, "digits~4-9 has classes that digits~0-5 lacks"),
        ("dann", "moons:moons~shaken", {}, "no shift 'shaken'"),
        ("adabn", "digits:digits~inverted", {"backbone": "cnn"}, "batch norm, and this backbone has none"),
        ("adabn", "digits:digits~noisy", {"backbone": "resnet", "resnet_norm": "layer"}, "--resnet-norm batch"),
        ("tent", MOONS, {"batch_norm": False}, "batch norm, and this backbone has none"),
        ("irm", MOONS, {}, "compares several sources"),
        ("dann", MOONS, {"folds": 3, "fold": 0}, "leave --folds out"),
        ("dann", MOONS, {"augment": ("affine",)}, "holds points"),
        ("fine-tune", MOONS, {"labels_per_class": 900}, "lower --labels-per-class"),
    ],
)
def test_what_does_not_fit(method, data, options, sentence):
    with pytest.raises(UserError, match=sentence):
        build(method, data, **options)


def test_a_target_of_a_single_example(tmp_path):
    np.savez(tmp_path / "one.npz", x=np.zeros((1, 2), np.float32), y=np.zeros(1, np.int64))
    with pytest.raises(UserError, match="a single example, too few"):
        build("dann", f"moons:{tmp_path / 'one.npz'}")


@pytest.mark.parametrize("method", ["dann", "adabn", "tent"])
def test_a_single_training_example_of_the_target(method, tmp_path):
    x, y = np.random.default_rng(0).normal(size=(21, 2)).astype(np.float32), np.arange(21) % 2
    np.savez(tmp_path / "t.npz", x_train=x[:1], y_train=y[:1], x_test=x[1:], y_test=y[1:])
    with pytest.raises(UserError, match="t has a single training example, too few to adapt to; give at least 10"):
        build(method, f"moons:{tmp_path / 't.npz'}")


@pytest.mark.parametrize(("one", "two", "fit"), [(1, 3, True), (3, 1, True), (1, 2, False), (4, 2, False)])
def test_channels_that_do_not_fit(one, two, fit, tmp_path):
    for name, channels in (("s", one), ("t", two)):
        np.savez(tmp_path / f"{name}.npz", x=np.zeros((40, 8, 8, channels), np.uint8), y=np.arange(40) % 2)
    pair = f"{tmp_path / 's.npz'}:{tmp_path / 't.npz'}"
    if fit:
        assert load_domains(pair).target.train.x.shape[1] == 3
        return
    with pytest.raises(UserError, match=f"s holds images of {one} channels and t of {two}; a pair needs"):
        load_domains(pair)


def test_labels_given_by_mistake_need_not_be_of_all_classes(tmp_path):
    x = np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32)
    np.savez(tmp_path / "t.npz", x=x, y=np.ones(40, np.int64))
    learner = build("coral", f"moons:{tmp_path / 't.npz'}")
    learner.learn(64)
    assert any("taught and chose nothing" in line for line in learner.sentences(learner.test()))


# Other classes

OPEN = "digits~0-5:digits~4-9~noisy"


def test_classes_are_matched_by_name():
    plain, shifted = load_domains("digits~0-5:digits"), load_domains("digits:digits~4-9")
    assert plain.open
    assert plain.target.classes == (*"012345", "unknown")
    assert not shifted.open
    whole = load_domains("digits:digits").target.test.y
    assert (plain.target.test.y == np.minimum(whole, 6)).all()
    assert (shifted.target.test.y == whole[whole >= 4]).all()
    learner = build("coral", "digits:digits~4-9")
    learner.learn(64)
    (line,) = learner.differing_classes()
    assert line == "the target has no examples of the source's classes 0, 1, 2, 3"
    assert set(learner.test()["class_accuracy"]) == set("456789")


def test_h_score_is_the_harmonic_mean_of_known_and_unknown():
    found = h_score({"0": 1.0, "1": 0.6, "unknown": 0.2})
    assert found == pytest.approx({"known_accuracy": 0.8, "unknown_accuracy": 0.2, "h_score": 0.32})
    assert h_score({"0": 1.0, "unknown": 0.0})["h_score"] == h_score({"0": 0.0, "unknown": 0.0})["h_score"] == 0


def test_universal_rejects_what_no_class_takes():
    learner = build("universal", OPEN)
    answers = learner.decide(torch.tensor([[-1.0, -2, -1, -3, -1, -1], [-1.0, 2, 3, -3, -1, -1]]))
    assert answers.tolist() == [6, 2]
    logits = torch.tensor([[0.0, 0, 0, 0, 0, 0], [0.0, 9, 0, 0, 0, 0]])
    assert build("source-only", OPEN).decide(logits).tolist() == [6, 1]
    assert build("source-only", "digits:digits~4-9").decide(logits).tolist() == [0, 1]


def test_universal_learns_what_is_unknown():
    figures = {}
    for method in ("universal", "source-only", "target-oracle"):
        learner = build(method, OPEN, hidden_sizes=(64,), learning_rate=3e-3)
        learner.learn(12_000)
        result = figures[method] = learner.test()
        assert list(result["predicted"])[-1] == "unknown"
        assert np.array(result["confusion"]).shape == (7, 7)
        assert np.array(result["confusion"])[:4].sum() == 0  # The target is without them.
    assert figures["universal"]["h_score"] > 0.5
    assert figures["universal"]["h_score"] > figures["source-only"]["h_score"] + 0.2
    assert figures["target-oracle"]["h_score"] > 0.9


def test_a_label_shift_is_said_and_so_is_a_concept_shift():
    (line,) = build("source-only", "digits:digits~imbalanced").differing_classes()
    assert "a label shift" in line
    assert build("source-only", "digits:digits~noisy").differing_classes() == []
    figures = {"a_distance_before": 0.02, "source_only_accuracy": 0.01, "target_oracle_accuracy": 0.9}
    assert "a concept shift" in concept_shift(figures)[0]
    assert concept_shift({**figures, "a_distance_before": 1.0}) == []
    assert concept_shift({**figures, "source_only_accuracy": 0.85}) == []
    assert concept_shift({}) == []


# Words


def test_sentences():
    figures = {
        "source_accuracy": 0.99,
        "target_accuracy": 0.5,
        "source_only_accuracy": 0.7,
        "target_oracle_accuracy": 0.9,
        "examples": 1_000,
    }
    assert "negative transfer" in compare(figures)
    assert "no more than chance does between 1,000 examples" in compare({**figures, "target_accuracy": 0.705})
    assert "closed 50% of the gap" in compare({**figures, "target_accuracy": 0.8})
    assert "no more than chance does between 60" in compare({**figures, "target_accuracy": 0.8, "examples": 60})
    assert chance_difference(0.5, 0.5, 2) == pytest.approx(0.98)
    assert effective_classes({"a": 0.5, "b": 0.5, "c": 0.0}) == pytest.approx(2)
    assert collapse({"a": 0.5, "b": 0.3, "c": 0.2}) == []
    assert collapse({"a": 0.7, "b": 0.3, "c": 0.0}, classes=2.0) == []
    assert "100% of the target is read as 'a'" in collapse({"a": 1.0, "b": 0.0})[0]
    assert collapse({"a": 1.0, "b": 0.0}, classes=1.0) == []
    assert "97% of the target is read as 'b'" in collapse({"a": 0.01, "b": 0.97, "c": 0.01, "d": 0.01})[0]


def test_several_sources_have_a_figure_each():
    result = build("erm", SEVERAL).test()
    each = result["source_accuracies"]
    assert list(each) == ["moons", "moons@20deg"]
    assert np.mean(list(each.values())) == pytest.approx(result["source_accuracy"])
    assert each["moons"] != each["moons@20deg"]
    figures = {"source_accuracy": 0.8, "target_accuracy": 0.5, "source_accuracies": {"a": 0.7, "b": 0.9}}
    assert compare(figures).endswith("in the source 80.0% (a 70.0%, b 90.0%)")
    assert "source_accuracies" not in build("dann").test()


def test_sentences_over_seeds():
    one = {"source_accuracy": 0.9, "target_accuracy": 0.5, "source_only_accuracy": 0.7, "target_oracle_accuracy": 0.8}
    notes = ["collapse: 90% of it", "the target's labels chose these weights"]
    means, lines = compare_seeds([{**one, "notes": notes}, {**one, "target_accuracy": 0.6, "notes": notes[1:]}])
    assert means == {
        name: pytest.approx(one[name]) for name in ("source_accuracy", "source_only_accuracy", "target_oracle_accuracy")
    }
    assert lines[0].startswith("without adaptation 70.0%, with the target's labels 80.0%: adapting changed it by -15.0")
    assert lines[0].endswith("(-20.0 to -10.0); negative transfer, it did harm")
    assert lines[1:] == [f"1 of 2 seeds: {notes[0]}", f"2 of 2 seeds: {notes[1]}"]
    better = [{**one, "target_accuracy": 0.8}, {**one, "target_accuracy": 0.6}]
    assert compare_seeds(better)[1][0].endswith("+0.0 points (-10.0 to +10.0); no clear change")
    assert compare_seeds([{"accuracy": 1.0}]) == ({}, [])


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


@pytest.mark.parametrize("method", ["dann", "cdan", "adda"])
def test_an_adversary_that_is_cut_off_ends_the_training(method, monkeypatch):
    learner = build(method)
    monkeypatch.setattr(
        type(learner), "fooling", lambda self, source, target, *_, **__: (source.sum() * 0, torch.zeros(len(source)))
    )
    learner.last_figures = {"domain_accuracy": 0.6}
    with pytest.raises(TrainingError, match="does nothing"):
        learner.check_adversary()


def test_a_domain_classifier_behind_detached_features_is_found_out(monkeypatch):
    learner = build("dann")
    fooled = DomainClassifier.fooled
    monkeypatch.setattr(DomainClassifier, "fooled", lambda self, x, strength: fooled(self, x.detach(), strength))
    with pytest.raises(TrainingError, match="does nothing"):
        learner.check_adversary()


def test_patience_ends_a_training_and_mixup_is_refused():
    ends = []
    learner = build("dann", patience=1)
    learner.learning = True
    for score in (0.5, 0.4):
        learner.wait(score)
        ends.append(learner.converged)
    assert ends == [False, True]
    with pytest.raises(UserError, match="leave --mixup out"):
        build("dann", mixup=0.5).prepare()
    with pytest.raises(UserError, match="adapts nothing; take source-only"):
        build("dann", weight=0.0).prepare()


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


def test_frozen_batch_norm_is_not_adapted(tmp_path):
    options = {"batch_norm": True, "hidden_sizes": (8,), "total_timesteps": 64, "controls": False}
    source = rltool.train("source-only", MOONS, run_dir=str(tmp_path), name="source", **options)
    options |= {"init_backbone": str(source.path), "freeze_backbone": 32}
    with pytest.raises(UserError, match="leave --freeze-backbone out"):
        rltool.train("adabn", MOONS, run_dir=str(tmp_path / "none"), **options)
    assert not (tmp_path / "none").exists()


def test_a_minibatch_of_one_is_no_end_for_coral():
    assert build("coral").learn(65).timesteps == 65


# Runs


def test_a_run_has_controls_pictures_and_words(tmp_path):
    run = rltool.train("dann", MOONS, hidden_sizes=(16,), total_timesteps=1_280, preset="none", run_dir=str(tmp_path))
    summary = run.summary
    assert {"source_only_accuracy", "target_oracle_accuracy", "a_distance_before", "domain_accuracy"} <= summary.keys()
    assert run.result == summary["target_accuracy"] == run.agent.test()["target_accuracy"]
    for name in ("features", "boundary", "adversary", "confusion_matrix", "learning_curve"):
        assert (run.path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert any("domain classifier is right" in note for note in summary["notes"])
    assert rltool.load(run.path / "controls" / "source-only").summary["finished"]


def test_labels_of_a_file_are_ignored_and_that_is_said(tmp_path):
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "t.npz", x=rng.normal(size=(60, 2)).astype(np.float32), y=np.arange(60) % 2)
    options = {"hidden_sizes": (8,), "total_timesteps": 128, "controls": False, "run_dir": str(tmp_path)}
    run = rltool.train("coral", f"moons:{tmp_path / 't.npz'}", **options)
    assert any("they taught and chose nothing" in note for note in run.summary["notes"])
    run = rltool.train("coral", f"moons:{tmp_path / 't.npz'}@20deg", **options)
    assert any("they taught and chose nothing" in note for note in run.summary["notes"])
    run = rltool.train("coral", f"moons:{tmp_path / 't.npz'}", select="oracle", **options)
    assert any("chose these weights" in note for note in run.summary["notes"])


@pytest.mark.parametrize("y", [np.full(60, -1), np.zeros(60), np.array(["cat"] * 60), np.arange(7)])
def test_what_is_no_label_of_the_target_is_left_out(tmp_path, y):
    np.savez(tmp_path / "t.npz", x=np.random.default_rng(0).normal(size=(60, 2)).astype(np.float32), y=y)
    domains = load_domains(f"moons:{tmp_path / 't.npz'}")
    assert not domains.labeled
    assert len(domains.target.train) + len(domains.target.test) == 60
    with pytest.raises(UserError):
        load_domains(f"{tmp_path / 't.npz'}:moons")  # A source needs labels.


def test_few_examples_of_the_target_are_no_end_at_the_end(tmp_path):
    rng = np.random.default_rng(0)
    draw = lambda n: rng.normal(size=(n, 2)).astype(np.float32)  # noqa: E731
    labels = lambda n: np.arange(n) % 2  # noqa: E731
    np.savez(tmp_path / "one.npz", x_train=draw(40), y_train=labels(40), x_test=draw(1), y_test=labels(1))
    np.savez(tmp_path / "ten.npz", x=draw(10), y=labels(10))
    options = {"hidden_sizes": (8,), "total_timesteps": 128, "run_dir": str(tmp_path)}
    summary = rltool.train("dann", f"moons:{tmp_path / 'one.npz'}", **options).summary
    assert summary["finished"]
    assert "a_distance" not in summary
    summary = rltool.train("dann", f"moons:{tmp_path / 'ten.npz'}", **options).summary
    assert summary["finished"]
    assert any("target-oracle was left out" in note for note in summary["notes"])


@pytest.mark.slow
def test_dann_is_stable_on_the_moons(tmp_path):
    figures = [
        rltool.train("dann", MOONS, seed=seed, run_dir=str(tmp_path), controls=seed == 0).summary for seed in range(3)
    ]
    assert min(each["target_accuracy"] for each in figures) >= 0.9
    assert figures[0]["target_accuracy"] > figures[0]["source_only_accuracy"] + 0.15

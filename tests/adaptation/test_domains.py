"""Data that do not fit, targets of a few examples, and runs."""

import numpy as np
import pytest

import rltool
from rltool.adaptation.domains import load_domains, split_name
from rltool.errors import UserError
from tests.adaptation.learning import MOONS, build


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


def test_frozen_batch_norm_is_not_adapted(tmp_path):
    options = {"batch_norm": True, "hidden_sizes": (8,), "total_timesteps": 64, "controls": False}
    source = rltool.train("source-only", MOONS, run_dir=str(tmp_path), name="source", **options)
    options |= {"init_backbone": str(source.path), "freeze_backbone": 32}
    with pytest.raises(UserError, match="leave --freeze-backbone out"):
        rltool.train("adabn", MOONS, run_dir=str(tmp_path / "none"), **options)
    assert not (tmp_path / "none").exists()


def test_a_minibatch_of_one_is_no_end_for_coral():
    assert build("coral").learn(65).timesteps == 65


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

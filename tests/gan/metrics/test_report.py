"""Reports about samples: what they say of good, collapsed, copied and broken ones, and what they need."""

import json
import tracemalloc

import numpy as np
import pytest

from rltool.data import Dataset, Part, load_dataset
from rltool.errors import UserError
from rltool.gan import extractor
from rltool.gan.extractor import Extractor, each_channel, find_extractor
from rltool.gan.report import Reference, evaluate_samples

SHAPE = (1, 6, 6)


def bars(n, rng):
    """Images of a bright horizontal, vertical or diagonal bar in noise; the label is which."""
    y = rng.integers(3, size=n)
    shapes = np.zeros((3, 6, 6), np.float32)
    shapes[0, 2:4], shapes[1, :, 2:4], shapes[2] = 0.8, 0.8, 0.8 * np.eye(6)
    return Part((shapes[y] + 0.2 * rng.random((n, 6, 6), np.float32))[:, None], y)


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    return Dataset("bars", bars(600, rng), bars(200, rng), ("horizontal", "vertical", "diagonal"))


@pytest.fixture(scope="module")
def reference(data):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(extractor, "LEAST_BUDGET", 4_000)
        patch.setattr(extractor, "PASSES", 1)
        return Reference(data)


def fresh(n, seed):
    return bars(n, np.random.default_rng(1_000 + seed)).x


@pytest.fixture(scope="module")
def report(reference):
    return evaluate_samples(fresh, reference, n=1_000)


def test_good_samples_score_like_held_out_examples(report):
    assert report["modes"] == report.num_modes == 3
    assert report["high_quality"] > 0.9
    assert report["kl"] < 0.02
    assert report["fid"] < 3 * report.fid_floor
    assert report.figures["fid"].low < report["fid"] < report.figures["fid"].high
    assert report["coverage"] > 0.8
    assert report["inception_score"] == pytest.approx(report.held_out["inception_score"], rel=0.05)
    assert report.figures["memorized"].low < 0.05
    assert report.verdicts == ("no sign of collapse, dropped modes or copying",)
    assert (report.n_real, report.n_fake, report.n_held_out) == (600, 1_000, 200)


def test_reports_are_printed_with_their_numbers_of_examples_and_as_json(report):
    text = str(report)
    assert "1,000 samples against 600 training examples" in text
    assert "a classifier of bars (resnet, 100.0% of test examples right)" in text
    assert "200 held-out examples" in text
    again = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert (again["modes"], again["num_modes"], again["missing"]) == (3, 3, [])
    assert {"high_quality", "kl", "jsd", "fid", "kid", "n_real", "n_fake", "recall"} <= again.keys()
    assert again["intervals"]["fid"][0] < again["fid"] < again["intervals"]["fid"][1]


def test_the_same_seed_gives_the_same_report(reference, report):
    again = evaluate_samples(fresh, reference, n=1_000)
    assert again == report
    assert evaluate_samples(fresh, reference, n=1_000, seed=1) != report


def test_collapse_dropping_copies_and_noise_are_told_apart(data, reference):
    def said(sample):
        return evaluate_samples(sample, reference, n=1_000).verdicts

    one = data.train.x[data.train.y == 0]
    two = data.train.x[data.train.y < 2]
    rng = np.random.default_rng(0)

    def near(x):
        return lambda n, seed: np.clip(x[rng.integers(len(x), size=n)] + 0.02 * rng.normal(size=(n, *SHAPE)), 0, 1)

    assert said(near(one))[0].startswith("mode collapse: good samples are spread as if there were 1.0 of the 3")
    assert "mode dropping: 2 of 3 modes found, without diagonal" in said(near(two))
    assert "different samples" in said(near(data.test.x[[0, 1, 2, 3, 4, 5]]))[0]
    assert said(lambda n, seed: data.train.x[rng.integers(600, size=n)])[-1].startswith("memorization: about ")
    assert said(lambda n, seed: rng.random((n, *SHAPE)))[0].startswith("unlike the data")


def test_quick_reports_have_the_same_values_and_no_intervals(reference, report):
    quick = evaluate_samples(fresh, reference, n=1_000, quick=True)
    for name, figure in quick.figures.items():
        assert figure.value == pytest.approx(report[name], rel=1e-4)
        assert not figure.has_interval
    assert "coverage" not in quick.figures
    assert quick.score == -quick["fid"]


def test_memory_is_flat_in_the_number_of_samples(reference):
    def peak(n):
        tracemalloc.start()
        evaluate_samples(fresh, reference, n=n, quick=True)
        try:
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(1_000)
    few, many = peak(4_000), peak(40_000)
    assert many < few + 1_000_000  # The samples alone are 5 MB more.


def test_mixtures_need_no_classifier():
    ring = load_dataset("ring8")
    report = evaluate_samples(lambda n, seed: ring.test.x[:n], ring, n=2_500, quick=True)
    assert report["modes"] == 8
    assert report["high_quality"] == pytest.approx(1 - np.exp(-4.5), abs=0.01)  # Within 3 standard deviations.
    assert report.score == report["high_quality"] - report["kl"]
    half = ring.test.x[ring.test.y < 4]
    dropped = evaluate_samples(lambda n, seed: half[:n], ring, n=2_500, quick=True)
    assert dropped["modes"] == 4
    assert dropped["kl"] == pytest.approx(np.log(2), abs=0.01)
    assert dropped.missing == ("4", "5", "6", "7")


def test_classes_that_are_not_equally_frequent_are_not_expected_to_be():
    rng = np.random.default_rng(0)
    parts = [bars(400, rng) for _ in range(2)]
    rows = [np.flatnonzero((part.y > 0) | (rng.random(400) < 0.2)) for part in parts]
    train, test = (part.select(each) for part, each in zip(parts, rows, strict=True))
    seen = Extractor("known", lambda x: (x.reshape(len(x), -1), np.eye(3)[[0, 1, 2]][_labels(x)]))
    report = evaluate_samples(
        lambda n, seed: train.x[np.random.default_rng(seed).integers(len(train), size=n)],
        Dataset("rare", train, test, ("0", "1", "2")),
        n=1_000,
        extractor=seen,
    )
    assert report["kl"] < 0.02


def _labels(x):
    rows, columns = x[:, 0, 2:4].mean((1, 2)), x[:, 0, :, 2:4].mean((1, 2))
    return np.where(np.maximum(rows, columns) < 0.6, 2, np.where(rows > columns, 0, 1))


# Extractors


def test_a_trained_extractor_is_kept_and_the_same_again(data, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("RLTOOL_DATA", str(tmp_path))
    monkeypatch.setattr(extractor, "LEAST_BUDGET", 1_000)
    monkeypatch.setattr(extractor, "PASSES", 1)
    first = find_extractor(data)(data.test.x)
    assert "training a classifier of bars" in capsys.readouterr().err
    (file,) = (tmp_path / "extractors").iterdir()
    second = find_extractor(data)(data.test.x)
    assert capsys.readouterr().err == ""
    file.write_bytes(b"damaged")
    third = find_extractor(data)(data.test.x)
    for features, probabilities in (second, third):
        assert np.array_equal(features, first[0])
        assert np.array_equal(probabilities, first[1])
    find_extractor(Dataset("bars", data.train.select(np.arange(300)), data.test, data.classes))
    assert len(list((tmp_path / "extractors").iterdir())) == 2  # Other examples, another classifier.


def test_images_without_labels_are_seen_through_principal_components():
    rng = np.random.default_rng(0)
    data = Dataset("bars", bars(300, rng), bars(100, rng), ())
    found = find_extractor(data)
    features, probabilities = found(data.train.x)
    assert probabilities is None
    assert found.name == "36 principal components of pixels"
    variances = np.linalg.eigvalsh(np.cov(data.train.x.reshape(300, -1), rowvar=False))[::-1]
    assert features.var(0, ddof=1)[:10] == pytest.approx(variances[:10], rel=1e-3)
    report = evaluate_samples(fresh, data, n=500)
    assert report.num_modes is None
    assert report.verdicts == ("no sign of collapse, dropped modes or copying",)
    collapsed = evaluate_samples(lambda n, seed: np.repeat(data.test.x[:1], n, 0), data, n=500)
    assert collapsed.verdicts[0].startswith("mode collapse: about 1 different samples")


def test_stacked_channels_are_seen_one_by_one(reference, data):
    part = data.test
    x = np.concatenate([part.x[:50], part.x[50:100], part.x[100:150]], 1)
    features, probabilities = each_channel(reference.extractor)(x)
    alone, each = reference.extractor(part.x[50:100])
    assert features.shape == (50, 192)
    assert features[:, 64:128] == pytest.approx(alone, abs=1e-5)
    assert probabilities.shape == (50, 27)
    assert probabilities.sum(1) == pytest.approx(1)
    assert probabilities.reshape(50, 3, 3, 3).sum((1, 3)) == pytest.approx(each, abs=1e-5)
    assert probabilities.argmax(1) == pytest.approx(part.y[:150].reshape(3, 50).T @ [9, 3, 1])


# What will not do


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda x: x * np.nan, "not finite"),
        (lambda x: x * 2 - 1, r"pixels from -1 to .* images are in \[0, 1\]"),
        (lambda x: x[:, :, :5], r"the samples are \(1, 5, 6\)"),
    ],
)
def test_samples_that_will_not_do(reference, change, sentence):
    with pytest.raises(UserError, match=sentence):
        evaluate_samples(lambda n, seed: change(fresh(n, seed)), reference, n=100)


def test_data_that_will_not_do(data, reference):
    def changed(x):
        return Dataset("bars", Part(x, np.zeros(len(x), np.int64)), data.test, ())

    for x, sentence in (
        (data.train.x * np.nan, "examples of bars have values that are not finite"),
        (data.train.x - 1, "pixels from"),
        (data.train.x[:1], "has 1 training and 200 test examples"),
    ):
        with pytest.raises(UserError, match=sentence):
            Reference(changed(x))
    with pytest.raises(UserError, match="draw at least"):
        evaluate_samples(fresh, reference, n=1)


def test_fewer_examples_than_features_are_warned_of():
    rng = np.random.default_rng(0)
    data = Dataset("few", bars(30, rng), bars(20, rng), ())
    wide = Extractor("flat", lambda x: (x.reshape(len(x), -1).astype(np.float64), None))
    report = evaluate_samples(fresh, data, n=100, extractor=wide)
    assert np.isfinite(report["fid"])
    assert "30 training examples are fewer than the 36 features" in report.warnings[0]
    assert "go by KID" in str(report)


def test_the_least_there_can_be():
    rng = np.random.default_rng(0)
    data = Dataset("tiny", bars(2, rng), bars(2, rng), ())
    for n in (2, 30):
        report = evaluate_samples(fresh, data, n=n)
        assert all(np.isfinite(each.value) for each in report.figures.values())
        json.dumps(report.to_dict(), allow_nan=False)


def test_samples_too_few_for_the_modes_are_warned_of():
    grid = load_dataset("grid25")
    report = evaluate_samples(lambda n, seed: grid.test.x[:n], grid, n=400, quick=True)
    assert "400 samples are few for 25 modes" in report.warnings[0]
    assert not evaluate_samples(lambda n, seed: grid.test.x[:n], grid, n=1_250, quick=True).warnings


def test_extractors_that_are_not_there(data, tmp_path):
    with pytest.raises(UserError, match="there is no run nowhere"):
        find_extractor(data, "nowhere")
    with pytest.raises(UserError, match="inception"):
        find_extractor(data, "inception")
    with pytest.raises(UserError, match="holds points"):
        find_extractor(load_dataset("moons"), "inception")

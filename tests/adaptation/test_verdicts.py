"""What is said of an adaptation: accuracies, shifts, collapses, adversaries that do nothing."""

import numpy as np
import pytest
import torch

from rltool.adaptation.checks import concept_shift
from rltool.adaptation.domains import load_domains
from rltool.adaptation.networks import DomainClassifier
from rltool.adaptation.verdict import chance_difference, collapse, compare, compare_seeds, effective_classes, h_score
from rltool.errors import TrainingError
from tests.adaptation.learning import SEVERAL, build


def test_an_inert_domain_classifier_ends_the_training():
    learner = build("dann")
    for weight in learner.beside["domain"].parameters():
        weight.data.zero_()
    learner.side_optimizer.descend = lambda loss: None
    learner.learn(2 * 64)
    learner.learning = True
    with pytest.raises(TrainingError, match="the domain classifier does nothing"):
        learner.evaluate()


def test_sources_are_told_apart():
    learner = build("vrex", "digits+digits~inverted:digits@60deg", backbone="mlp")
    x = learner.examples[0][0].mean((1, 2, 3))
    assert float(x[learner.domain_of == 1].mean()) > float(x[learner.domain_of == 0].mean()) + 0.2


def test_labels_given_by_mistake_need_not_be_of_all_classes(tmp_path):
    x = np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32)
    np.savez(tmp_path / "t.npz", x=x, y=np.ones(40, np.int64))
    learner = build("coral", f"moons:{tmp_path / 't.npz'}")
    learner.learn(64)
    assert any("taught and chose nothing" in line for line in learner.sentences(learner.test()))


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

"""`rltool robustness` and `rltool check`."""

import json

import pytest

from rltool.cli.opening import _with_null


@pytest.fixture
def digits(cli):
    """The folder of a small classifier."""
    cli("train", "classifier", "digits", "-n", 3_000, "--quiet", "--name", "d")
    return "runs/d"


def test_robustness_of_classifiers(cli, digits, tmp_path):
    shared = ("--examples", 20, "--attacks", "random,fgsm", "--epsilons", "0.1,0.3")
    report = json.loads(cli("robustness", digits, *shared, "--json").out)
    assert report["runs"][0]["metric"] == "accuracy"
    assert [cell["epsilon"] for cell in report["runs"][0]["envelope"]] == [0, 0.1, 0.3]
    again = cli("robustness", digits, digits, *shared, "--out", "both.png")
    assert "fgsm at 0.3 leaves" in again.err
    assert "95%" in again.out
    assert (tmp_path / "both.png").exists()
    assert (tmp_path / "both.csv").read_text().count("fgsm") == 4


def test_robustness_of_an_agent(cli):
    cli("train", "ppo", "CartPole-v1", "-n", 2_048, "--quiet", "--name", "v")
    done = cli("robustness", "runs/v", "--epsilons", "0.2", "--episodes", 2, "--attacks", "random,mad")
    assert "worst 10%" in done.out
    assert "runs/v/robustness.png" in done.out


def test_a_frontier(cli):
    cli("train", "ppo", "CartPole-v1", "-n", 2_048, "--quiet", "--name", "v")
    shared = ("robustness", "runs/v", "--shares", "0.5,1", "--epsilons", 0.3, "--episodes", 2)
    report = json.loads(cli(*shared, "--attacks", "random,timed", "--json").out)
    assert [cell["share"] for cell in report["runs"][0]["envelope"]] == [0, 0.5, 1]
    assert report["picture"].endswith("frontier.png")
    assert "return against share" in cli(*shared, "--attacks", "random,timed").out
    for arguments, sentence in (
        (("--shares", "0.5", "--epsilons", "0.1,0.2"), "at a single epsilon"),
        (("--shares", "1.5", "--epsilons", "0.1"), "at most 1"),
        (("--shares", "half", "--epsilons", "0.1"), "--shares takes numbers"),
    ):
        done = cli("robustness", "runs/v", *arguments)
        assert (done.code, sentence in done.err) == (2, True), done.err


def test_nan_is_null():
    assert _with_null({"a": [float("nan"), 1.0], "b": {"c": float("inf")}}) == {"a": [None, 1.0], "b": {"c": None}}


def test_check(cli, digits):
    report = json.loads(cli("check", digits, "--samples", 32, "--json").out)
    assert len(report["flags"]) > 8
    spoiled = cli("check", digits, "--samples", 32, "--spoil", "softmax", "--strict")
    assert spoiled.code == 1
    assert "RAISED  probabilities" in spoiled.out
    assert "gives probabilities" in cli("check", digits, "--spoil", "list").out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("robustness", "runs/d", "--epsilons", "a"), "--epsilons takes numbers"),
        (("robustness", "runs/d", "--epsilons", "0,0.1"), "above 0"),
        (("robustness", "runs/d", "--attacks", "pdg"), "did you mean 'pgd'"),
        (("robustness", "runs/d", "--attacks", "deepfool"), "deepfool has no epsilon"),
        (("robustness", "runs/d", "--shares", "0.5", "--epsilons", "0.1"), "leave it out for a classifier"),
        (("robustness", "runs/d", "--out", "a.txt"), "--out ends in"),
        (("check", "runs/d", "--spoil", "nose"), "did you mean 'noise'"),
    ],
)
def test_mistakes(cli, digits, arguments, sentence):
    done = cli(*arguments)
    assert done.code == 2
    assert sentence in done.err

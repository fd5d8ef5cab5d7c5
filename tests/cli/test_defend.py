"""`rltool defend`, and `rltool train classifier --robust`."""

import json

import pytest


@pytest.fixture
def digits(cli):
    cli("train", "classifier", "digits", "-n", 3_000, "--quiet", "--name", "d")
    return "runs/d"


def test_both_numbers_side_by_side(cli, digits):
    done = cli("defend", digits, "--with", "bit-depth", "-o", "bits=2", "--epsilon", 0.15, "--examples", 60, "--json")
    report = json.loads(done.out)
    assert report["attacked"] < report["clean"]
    assert report["defended_adaptive"] < report["defended_static"]
    assert (report["defense"], report["attack"], report["bpda"], report["eot"]) == ("bit-depth", "pgd", True, 1)
    table = cli("defend", digits, "--steps", 5, "--examples", 20).out
    assert "attack unaware of it" in table
    assert "through it" in table


def test_without_bpda_a_white_box_attack_is_refused_and_a_black_box_one_goes_on(cli, digits):
    refused = cli("defend", digits, "--with", "jpeg", "--no-bpda", "--examples", 10)
    assert refused.code == 2
    assert "say BPDA" in refused.err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("nowhere", "--with", "smoothin"), "did you mean 'smoothing'"),
        (("nowhere", "--with", "smoothing", "-o", "bits=3"), "has no option bits"),
        (("nowhere", "--with", "smoothing", "-o", "bits"), "--option takes name=value"),
        (("nowhere", "--epsilon", -1), "at least 0"),
        (("nowhere",), "nowhere"),
    ],
)
def test_mistakes(cli, arguments, sentence):
    done = cli("defend", *arguments)
    assert done.code == 2
    assert sentence in done.err


def test_an_agent_is_told_that_it_is_none(cli):
    cli("train", "a2c", "CartPole-v1", "-n", 80, "--quiet", "--name", "v")
    done = cli("defend", "runs/v")
    assert done.code == 2
    assert "no classifier's run" in done.err


def test_certificates(cli, tmp_path):
    options = ("--robust", "noise", "--epsilon", 0.2, "--quiet")
    cli("train", "classifier", "digits", "-n", 10_000, "--name", "n", "--backbone", "mlp", *options)
    arguments = ("defend", "runs/n", "--certify", 0.2, "--draws", 100, "--examples", 20)
    picture = tmp_path / "certified.png"
    report = json.loads(cli(*arguments, "--out", picture, "--json").out)
    assert picture.stat().st_size > 1_000
    assert len(report["radii"]) == len(report["certified_accuracy"])
    assert report["certified_accuracy"][0] > 0.3
    assert "mean certified radius" in cli(*arguments).out
    assert cli("defend", "runs/n", "--certify", 0).code == 2
    assert cli(*arguments, "--out", tmp_path / "no" / "c.png").code == 2


def test_detection(cli, digits):
    arguments = ("defend", digits, "--detect", "mahalanobis", "--epsilon", 0.2, "--examples", 40)
    report = json.loads(cli(*arguments, "--json").out)
    assert report["undetected_adaptive"] >= report["undetected_static"]
    assert "under one that knows of it" in cli(*arguments).out
    assert cli(*arguments, "--false-positives", 2).code == 2


def test_attacks_without_an_epsilon(cli, digits):
    report = json.loads(cli("defend", digits, "--attack", "deepfool", "--examples", 10, "--json").out)
    assert report["epsilon"] is None
    assert "deepfool, l2; gradients" in cli("defend", digits, "--attack", "deepfool", "--examples", 10).out
    done = cli("defend", digits, "--detect", "squeezing", "--attack", "deepfool")
    assert done.code == 2
    assert "DeepFool has no epsilon" in done.err


def test_defenses_are_listed(cli):
    assert "bit-depth" in cli("list", "defenses").out


def test_train_a_robust_classifier(cli):
    options = ("--robust", "pgd", "--epsilon", 0.1, "--robust-steps", 2, "--eval-freq", 500, "--quiet")
    cli("train", "classifier", "digits", "-n", 1_000, "--name", "r", *options)
    with open("runs/r/metrics.csv") as file:
        assert "eval/robust_accuracy" in file.readline()
    assert json.loads(cli("eval", "runs/r", "--json").out)["accuracy"] > 0.1
    idle = cli("train", "classifier", "digits", "--epsilon", 0.2)
    assert idle.code == 2
    assert "epsilon does nothing without --robust" in idle.err
    none = cli("train", "classifier", "digits", "--robust", "pgd", "--epsilon", 0)
    assert none.code == 2
    assert "epsilon 0" in none.err

"""`rltool attack`."""

import json

import pytest


def test_attack_an_agent(cli):
    cli("train", "ppo", "CartPole-v1", "-n", 4_096, "--quiet", "--name", "v")
    done = cli("attack", "runs/v", "--attack", "pgd", "--epsilon", 0.2, "--steps", 3, "--episodes", 2, "--json")
    report = json.loads(done.out)
    assert (report["attack"], report["norm"], report["epsilon"], report["episodes"]) == ("pgd", "linf", 0.2, 2)
    assert {"clean", "attacked", "random", "normalized", "flip_rate", "seconds"} <= report.keys()
    assert "of the way is left" in cli("attack", "runs/v", "-a", "random", "-e", 2).out


def test_attack_a_classifier(cli):
    cli("train", "classifier", "digits", "-n", 3_000, "--quiet", "--name", "d")
    report = json.loads(cli("attack", "runs/d", "-a", "fgsm", "--epsilon", 0.2, "--examples", 50, "--json").out)
    assert report["attacked"] < report["clean"]
    assert report["examples"] == 50
    assert "queries each" in cli("attack", "runs/d", "-a", "deepfool", "--examples", 10).out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("nowhere", "--attack", "pdg"), "did you mean 'pgd'"),
        (("nowhere", "--attack", "fgsm", "--steps", 3), "fgsm has no --steps"),
        (("nowhere", "--epsilon", -1), "at least 0"),
        (("nowhere", "--attack", "square", "--norm", "l2"), "has no norm 'l2'"),
        (("nowhere",), "nowhere"),
    ],
)
def test_mistakes(cli, arguments, sentence):
    done = cli("attack", *arguments)
    assert done.code == 2
    assert sentence in done.err


def test_attacks_are_listed(cli):
    assert "pgd" in cli("list", "attacks").out

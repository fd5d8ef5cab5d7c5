"""`rltool attack`."""

import json
from dataclasses import fields
from pathlib import Path

import pytest

from rltool.attacks.config import ATTACKS

# Hyperparameters that are no number, switch, text or choice, or that the command line knows itself.
WITHOUT_A_FLAG = {"seed", "attack", "proxies", "asked", "delta", "patch", "starts", "q", "direction"}


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


def test_attacks_that_learn(cli):
    cli("train", "classifier", "digits", "-n", 3_000, "--quiet", "--name", "d")
    done = cli("attack", "runs/d", "-a", "patch", "--steps", 5, "--examples", 20)
    assert done.code == 0
    assert "runs/d/patch.png" in done.out
    assert Path("runs/d/patch.png").stat().st_size > 50
    report = json.loads(cli("attack", "runs/d", "-a", "universal", "--steps", 5, "--examples", 20, "--json").out)
    assert Path(report["picture"]).name == "universal.png"
    options = ("--examples", 20, "--epsilon", 0.3, "--norm", "l2", "--json")
    report = json.loads(cli("attack", "runs/d", "-a", "transfer", "--proxy", "runs/d", *options).out)
    assert (report["norm"], report["epsilon"]) == ("l2", 0.3)
    assert "proxy_queries" not in report
    few = ("--answers-only", "--inputs", 30, "--rounds", 1, "--epochs", 1)
    assert json.loads(cli("attack", "runs/d", "-a", "transfer", *few, *options).out)["proxy_queries"] == 61
    assert "is for --attack transfer" in cli("attack", "runs/d", "-a", "pgd", "--proxy", "runs/d").err


def test_units_of_each_feature_and_steps_that_are_too_small(cli):
    cli("train", "ppo", "CartPole-v1", "-n", 512, "--eval-freq", 0, "--quiet", "--name", "v")
    done = cli("attack", "runs/v", "--unit", "1,1,0.1,0.5", "--epsilon", 0.2, "--steps", 2, "-e", 1)
    assert "within 0.2 in units of 1,1,0.1,0.5" in done.out
    assert not done.err
    done = cli("attack", "runs/v", "--epsilon", 0.2, "--steps", 2, "--step-size", 0.01, "-e", 1)
    assert done.code == 0
    assert "small-steps: 2 steps of 0.01 go 0.02" in done.err
    cli("train", "wgan-gp", "ring8", "-n", 8, "--eval-freq", 0, "--quiet", "--name", "g")
    done = cli("attack", "runs/v", "-a", "transfer", "--proxy", "runs/g")
    assert (done.code, "plays in no environment" in done.err) == (2, True)


def test_targets_proxies_and_lists_of_numbers(cli):
    cli("train", "classifier", "digits", "-n", 3_000, "--quiet", "--name", "d")
    cli("train", "ppo", "CartPole-v1", "-n", 2_048, "--quiet", "--name", "c")
    cli("train", "ppo", "Pendulum-v1", "-n", 2_048, "--quiet", "--name", "p")
    few = ("--examples", 30)
    report = json.loads(cli("attack", "runs/d", "--epsilon", 0.3, "--target", 3, *few, "--json").out)
    assert report["target"] == "3"
    assert report["flip_rate"] > 0.1
    assert "of what was right became 3" in cli("attack", "runs/d", "--target", 3, *few, "--picture").out
    done = cli("attack", "runs/d", "-a", "deepfool", "--target", 9, "--examples", 1, "--steps", 1, "--json")
    assert "NaN" not in done.out
    again = ("-a", "targeted", "--epsilon", 0.3, "-e", 2, "--json")
    low, high = (json.loads(cli("attack", "runs/p", *again, "--target-action", k).out)["attacked"] for k in (-2, 2))
    assert low != high
    each = json.loads(cli("attack", "runs/c", "--epsilon", "0.1,0,0.2,0", "-e", 2, "--json").out)["epsilon"]
    assert each == pytest.approx([0.1, 0, 0.2, 0])
    assert "within 0.1, 0, 0.2, 0)" in cli("attack", "runs/c", "--epsilon", "0.1,0,0.2,0", "-e", 2).out
    assert cli("attack", "runs/c", "-a", "transfer", "--proxy", "runs/c", "-e", 2).code == 0
    for arguments, sentence in (
        (("runs/d", "--target", "three"), "no class 'three'"),
        (("runs/d", "--target", "10"), "no class '10'"),
        (("runs/d", "--fraction", 0.5), "leave it out for a classifier"),
        (("runs/c", "--target", 1), "--attack targeted --target-action"),
        (("runs/c", "-a", "targeted", "--target-action", "0,1", "-e", 1), "choose one of the actions 0 to 1"),
        (("runs/p", "-a", "targeted", "--target-action", "0,1", "-e", 1), "has 2 numbers, an action 1"),
        (("runs/c", "--epsilon", "0.1,x"), "neither a number nor several"),
        (("runs/c", "--epsilon", "0.1,0.2", "-e", 1), "one for each feature"),
        (("runs/c", "-a", "transfer", "--proxy", "runs/d", "-e", 1), "a proxy does not stand in"),
        (("runs/d", "-a", "transfer", "--proxy", "runs/c"), "a proxy does not stand in"),
        (("runs/c", "-a", "transfer", "--proxy", "nowhere"), "there is no run nowhere"),
    ):
        done = cli("attack", *arguments)
        assert (done.code, sentence in done.err) == (2, True), (arguments, done.err)


def test_actions_and_forces(cli):
    cli("train", "ppo", "InvertedPendulum-v5", "-n", 512, "--num-steps", 64, "--quiet", "--name", "i")
    report = json.loads(
        cli("attack", "runs/i", "-a", "forces", "--epsilon", 30, "--body", "pole", "-e", 2, "--json").out
    )
    assert (report["norm"], report["unit"], report["flip_rate"]) == ("l2", "newton", None)
    assert "within 30 newtons" in cli("attack", "runs/i", "-a", "forces", "--epsilon", 30, "-e", 2).out
    assert "within 0.5 of the actions" in cli("attack", "runs/i", "-a", "actions", "--epsilon", 0.5, "-e", 2).out
    assert "of the timesteps attacked" in cli("attack", "runs/i", "-a", "actions", "--epsilon", 0.5, "-e", 2).out
    done = cli("attack", "runs/i", "-a", "forces", "--body", "pool", "-e", 2)
    assert (done.code, "did you mean 'pole'" in done.err) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("nowhere", "--attack", "pdg"), "did you mean 'pgd'"),
        (("nowhere", "--attack", "fgsm", "--steps", 3), "fgsm has no --steps"),
        (("nowhere", "--epsilon", -1), "at least 0"),
        (("nowhere", "--attack", "fgsm", "--nonsense", 3), "it takes --epsilon, --loss, --norm, --unit"),
        (("nowhere", "--attack", "square", "--norm", "l1"), "'l1' is not"),
        (("nowhere", "--attack", "pgd", "--steps", "many"), "unable to parse"),
        (("nowhere",), "nowhere"),
    ],
)
def test_mistakes(cli, arguments, sentence):
    done = cli("attack", *arguments)
    assert done.code == 2
    assert sentence in done.err


@pytest.mark.parametrize("name", ATTACKS.names())
def test_help_of_an_attack_shows_each_of_its_options(cli, monkeypatch, name):
    monkeypatch.setenv("COLUMNS", "200")
    page = cli("attack", "--attack", name, "--help").out
    kind = ATTACKS[name].load()
    for field in fields(kind):
        hidden = field.name in WITHOUT_A_FLAG or field.name in getattr(kind, "learned", ())
        assert f"--{field.name.replace('_', '-')} " in page or hidden
    assert "[default: " in page
    assert "--restarts" not in cli("attack", "--help").out


def test_attacks_are_listed(cli):
    assert "pgd" in cli("list", "attacks").out

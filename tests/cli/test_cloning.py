"""Behavior cloning and DAgger on the command line, from demonstrations to what goes on from them."""

from __future__ import annotations

import json
import os
import signal

import pytest

from .test_interrupt import rows_without_time, start, wait_for_rows

SHORT = ("--eval-freq", 0, "--save-freq", 0)


@pytest.fixture
def demos(cli, copy_of_trained):
    """Three episodes of the trained run."""
    assert cli("record", "mine", "--episodes", 3, "--out", "demos.npz").code == 0
    return "demos.npz"


def test_from_demonstrations_to_reinforcement_learning(cli, workplace, demos):
    options = ("CartPole-v1", "--demos", demos, "-n", 2_000, "--hidden-sizes", 16, "--label-smoothing", 0.05)
    done = cli("train", "bc", *options, "--then", "ppo", "--then-timesteps", 2_048, "--name", "clone")
    assert done.code == 0, done.err
    assert "went on in clone-ppo" in done.out
    runs = workplace / "runs"
    summaries = [json.loads((runs / name / "summary.json").read_text()) for name in ("clone", "clone-ppo")]
    assert [summary["total_timesteps"] for summary in summaries] == [2_000, 2_048]
    assert "validation/accuracy" in summaries[0]
    assert (runs / "clone" / "learning_curve.png").exists()
    for name in ("clone", "clone-ppo"):
        report = cli("eval", name, "--episodes", 2, "--json")
        assert report.code == 0
        assert report.json["episodes"] == 2
    again = cli("resume", "clone")
    assert "is finished at 2,000 timesteps" in again.out
    warm = cli("train", "a2c", "CartPole-v1", "--init-policy", "clone", "--preset", "none", "-n", 100, *SHORT,
               "--hidden-sizes", 16, "--activation", "relu", "--normalize-observations", "--json")  # fmt: skip
    assert warm.code == 0, warm.err
    assert warm.json["finished"]


def test_what_has_converged_is_finished(cli, demos):
    options = ("--demos", demos, "--patience", 1, "--learning-rate", 0.5, "--name", "soon", *SHORT)
    done = cli("train", "bc", "CartPole-v1", *options, "--json")
    assert done.code == 0
    assert done.json["finished"]
    assert done.json["converged"]
    again = cli("resume", "soon", "-n", 10_000_000)
    assert again.code == 0
    assert "has converged" in again.out


def test_dagger(cli, workplace, demos):
    options = ("CartPole-v1", "--expert", "mine", "--num-steps", 100, "-n", 300, *SHORT)
    done = cli("train", "dagger", *options, "--demos", demos, "--name", "asked")
    assert done.code == 0, done.err
    assert "disagreement with the expert:" in done.out
    run = workplace / "runs" / "asked"
    assert (run / "drift.png").stat().st_size > 1_000
    summary = json.loads((run / "summary.json").read_text())
    assert summary["total_timesteps"] >= 300
    assert 0 <= summary["last_disagreement"] <= 1
    assert "train/disagreement" in (run / "metrics.csv").read_text().splitlines()[0]
    assert cli("train", "dagger", *options, "--name", "without", "--quiet").code == 0


@pytest.mark.skipif(os.name != "posix", reason="signals are sent as POSIX has them")
@pytest.mark.parametrize("method", ["bc", "dagger"])
def test_ctrl_c_saves_and_resume_ends_as_if_nothing_had_happened(cli, workplace, demos, method):
    rows = ("CartPole-v1", "--log-freq", 200, "--eval-freq", 2_000, "--eval-episodes", 2, "--patience", 0)
    options = {
        "bc": (*rows, "--demos", demos, "-n", 20_000),
        "dagger": (*rows, "--expert", "mine", "--num-steps", 100, "--num-epochs", 2, "-n", 2_500),
    }[method]
    process = start("train", method, *options, "--name", "broken")
    run = workplace / "runs" / "broken"
    wait_for_rows(process, run, 4)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1, (out, err)
    assert "Traceback" not in err
    assert "go on with: rltool resume runs/broken" in out
    assert cli("resume", "broken", "--quiet").code == 0
    assert cli("train", method, *options, "--name", "whole", "--quiet").code == 0
    whole = workplace / "runs" / "whole"
    assert rows_without_time(run) == rows_without_time(whole)
    assert (run / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("bc", "CartPole-v1"), "name a file or a Minari dataset"),
        (("bc", "CartPole-v1", "--demos", "nowhere.npz"), "nowhere.npz"),
        (("bc", "CartPole-v1", "--demos", "nowhere"), "nowhere"),
        (("bc", "Acrobot-v1", "--demos", "demos.npz"), "recorded in CartPole-v1, not in Acrobot-v1"),
        (("bc", "CartPole-v1", "--demos", "demos.npz", "--then-timesteps", 9), "does nothing without --then"),
        (("bc", "CartPole-v1", "--demos", "demos.npz", "--then", "bc"), "ppo"),
        (("bc", "CartPole-v1", "--demos", "demos.npz", "--label-smoothing", 1), "label-smoothing"),
        (("dagger", "CartPole-v1"), "asks an expert what to do"),
        (("dagger", "CartPole-v1", "--expert", "nobody"), "there is no run nobody"),
        (("dagger", "CartPole-v1", "--expert", "demos.npz"), "demos.npz"),
        (("dagger", "Acrobot-v1", "--expert", "mine"), "the expert does not fit"),
        (("a2c", "CartPole-v1", "--init-policy", "nobody"), "there is no run nobody"),
        (("ppo", "CartPole-v1", "--init-policy", "mine"), "does not fit"),
    ],
)
def test_mistakes(cli, workplace, demos, arguments, sentence):
    before = sorted(path.name for path in (workplace / "runs").iterdir())
    hidden = ("--hidden-sizes", 7) if arguments[0] == "ppo" else ()
    assert sentence in cli("train", *arguments, *hidden).sentence(2)
    assert sorted(path.name for path in (workplace / "runs").iterdir()) == before

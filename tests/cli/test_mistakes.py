"""Every mistake of a user gets one clear sentence and exit code 2; nothing is written, nothing is lost."""

from __future__ import annotations

import builtins
import errno
import json
import os

import pytest

import rltool
from rltool.agents.config import A2CConfig
from rltool.training.methods import METHODS, Method


@pytest.fixture
def toy(monkeypatch):
    """A method `toy`, which is A2C with presets for two environments."""
    presets = {
        "CartPole-v1": {"gamma": 0.9, "num_envs": 2, "total_timesteps": 64, "eval_freq": 0},
        "Acrobot-v1": {"gamma": 0.8, "num_envs": 4, "eval_freq": 0},
    }
    monkeypatch.setattr(METHODS, "_entries", dict(METHODS._all()))
    METHODS.add("toy", Method(A2CConfig, "rltool.agents.a2c:A2C", presets=presets), "a toy")


# ruff: noqa: E501 - a line for each mistake.
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["trian", "a2c"], "No such command 'trian'. Did you mean 'train'?"),
        (["list", "method"], "No such command 'method'. Did you mean 'methods'?"),
        (["train", "poo", "CartPole-v1"], "no method 'poo'; did you mean 'ppo'?"),
        (["train", "zzz", "CartPole-v1"], "no method 'zzz'; choose one of reinforce, a2c, ppo, bc, dagger, gail, airl, maxent-irl, classifier, gan"),
        (["train", "a2c", "CartPole-v9"], "no environment 'CartPole-v9'; did you mean 'CartPole-v1'?"),
        (["train", "a2c", "cartpole-v1"], "no environment 'cartpole-v1'; did you mean 'CartPole-v1'?"),
        (["train", "a2c", "CartPole-v1", "--gama", ".9"], "no option '--gama'; did you mean '--gamma'?"),
        (["train", "ppo", "CartPole-v1", "--clip-rage", "1"], "no option '--clip-rage'; did you mean '--clip-range'?"),
        (["train", "a2c", "CartPole-v1", "--xyz"], "no option --xyz; see rltool train a2c --help"),
        (["train", "a2c", "CartPole-v1", "--backbone", "mpl"], "no backbone 'mpl'; did you mean 'mlp'?"),
        (["train", "toy", "CartPole-v1", "--preset", "CartPol-v1"], "no preset 'CartPol-v1'; did you mean 'CartPole-v1'?"),
        (["train", "a2c"], "Missing argument 'ENV'; see rltool train a2c --help"),
        (["train", "a2c", "CartPole-v1", "Acrobot-v1"], "Got unexpected extra argument"),
        (["train", "a2c", "CartPole-v1", "--gamma"], "Option '--gamma' requires an argument"),
        (["train", "a2c", "CartPole-v1", "--activation", "tahn"], "Invalid value for '--activation': 'tahn' is not one of"),
        (["train", "a2c", "CartPole-v1", "--track", "wandb"], "'wandb' is not one of 'tensorboard'"),
        (["train", "a2c", "CartPole-v1", "--device", "cuda:99"], "no device 'cuda:99' on this machine; take --device cpu"),
        (["train", "a2c", "CartPole-v1", "--device", "toaster"], "no device 'toaster' on this machine"),
        (["train", "a2c", "CartPole-v1", "--hidden-sizes", "64;64"], "--hidden-sizes takes whole numbers with commas"),
        (["train", "a2c", "CartPole-v1", "--hidden-sizes", "64,-1"], "hidden-sizes -1 will not do"),
        (["train", "a2c", "CartPole-v1", "--env-arg", "g"], "--env-arg takes name=value, as --env-arg g=9.81; not 'g'"),
        (["train", "a2c", "CartPole-v1", "--env-arg", "g=1"], "environment 'CartPole-v1' has no option 'g'"),
        (["train", "a2c", "CartPole-v1", "--gamma", "0,9"], "Invalid value for '--gamma'"),
        (["train", "a2c", "CartPole-v1", "--gamma", "nan"], "gamma nan will not do: input should be a finite number"),
        (["train", "a2c", "CartPole-v1", "--gamma", "1.5"], "gamma 1.5 will not do"),
        (["train", "a2c", "CartPole-v1", "--learning-rate", "-1"], "learning-rate -1.0 will not do: input should be greater"),
        (["train", "a2c", "CartPole-v1", "--learning-rate", "inf"], "learning-rate inf will not do"),
        (["train", "a2c", "CartPole-v1", "--ent-coef", "-0.1"], "ent-coef -0.1 will not do"),
        (["train", "a2c", "CartPole-v1", "--robust", "sa"], "add --epsilon, as --epsilon 0.1"),
        (["train", "a2c", "CartPole-v1", "--robust", "sa", "--epsilon", "-1"], "epsilon -1.0 will not do"),
        (["train", "a2c", "CartPole-v1", "--robust", "sa", "--epsilon", "nan"], "epsilon nan will not do"),
        (["train", "a2c", "CartPole-v1", "--robust", "as", "--epsilon", ".1"], "Invalid value for '--robust'"),
        (["train", "a2c", "CartPole-v1", "--max-grad-norm", "0"], "max-grad-norm 0.0 will not do"),
        (["train", "a2c", "CartPole-v1", "-n", "0"], "total-timesteps 0 will not do"),
        (["train", "a2c", "CartPole-v1", "-n", "-5"], "total-timesteps -5 will not do"),
        (["train", "a2c", "CartPole-v1", "-n", "1e5"], "Invalid value for '--total-timesteps'"),
        (["train", "a2c", "CartPole-v1", "--num-envs", "0"], "num-envs 0 will not do"),
        (["train", "a2c", "CartPole-v1", "--num-envs", "two"], "Invalid value for '--num-envs'"),
        (["train", "a2c", "CartPole-v1", "--seed", "-1"], "seed -1 will not do"),
        (["train", "a2c", "CartPole-v1", "--eval-freq", "-1"], "eval-freq -1 will not do"),
        (["train", "a2c", "CartPole-v1", "--log-freq", "0"], "log-freq 0 will not do"),
        (
            ["train", "ppo", "CartPole-v1", "--preset", "none", "--num-steps", "8", "--batch-size", "64"],
            "a minibatch of 64 is larger than the rollout of 1 environments x 8 steps = 8 timesteps; lower batch-size",
        ),
        (["eval", "x" * 300], "is too long for a file; give a shorter one"),
        (["record", "--random", "CartPole-v1", "--out", "x" * 300 + ".npz"], "is too long for a file; give a shorter one"),
        (["train", "a2c", "CartPole-v1", "--seeds", "0-"], "--seeds takes numbers and ranges, as 0-4 or 1,3,5; not '0-'"),
        (["train", "a2c", "CartPole-v1", "--seeds", "a"], "--seeds takes numbers and ranges"),
        (["train", "a2c", "CartPole-v1", "--seeds", "-1"], "--seeds takes numbers and ranges"),
        (["train", "a2c", "CartPole-v1", "--seeds", "3-1"], "--seeds needs different seeds; '3-1' has none"),
        (["train", "a2c", "CartPole-v1", "--seeds", "1,0-2"], "--seeds needs different seeds; '1,0-2' has one twice"),
        (["train", "a2c", "CartPole-v1", "--seeds", "0-1", "--seed", "1"], "give either --seed or --seeds, not both"),
        (["train", "a2c", "CartPole-v1", "--seeds", "0-1", "--gamma", "7"], "gamma 7.0 will not do"),
        (["train", "a2c", "no_such_module:Env-v0"], "no module 'no_such_module' to import for 'no_such_module:Env-v0'"),
        (["train", "a2c", "odd_environments:TextObservations-v0"], "observations from Text spaces at a cannot be read"),
        (["train", "a2c", "odd_environments:GraphObservations-v0", "--backbone", "cnn"], "take --backbone gnn"),
        (["train", "ppo", "odd_environments:ManyActions-v0"], "Tuple(Discrete(2))"),
        (["train", "ppo", "CartPole-v1", "--backbone", "lstm", "--batch-size", "8"], "smaller than one sequence of 16"),
        (["train", "ppo", "CartPole-v1", "--backbone", "lstm", "--bidirectional"], "leave out --bidirectional"),
        (["train", "ppo", "CartPole-v1", "--squash", "--rnd-coef", "2"], "rnd-coef does nothing without --rnd"),
        (["train", "ppo", "CartPole-v1", "--init-backbone", "nothing"], "there is no run nothing"),
        (["train", "ppo", "CartPole-v1", "--shaping", "odd_environments"], "write module:function"),
        (["train", "ppo", "CartPole-v1", "--shaping", "odd_environments:not_a_numbr"], "did you mean 'not_a_number'"),
        (["train", "ppo", "CartPole-v1", "--shaping", "odd_environments:of_one_argument"], "is called with 5 arguments"),
        (["train", "ppo", "CartPole-v1", "--potential", "nowhere:f"], "no module 'nowhere' to import"),
        (["diagnose", "nothing"], "there is no run nothing"),
        (["reproduce", "nothing"], "there is no run nothing"),
        (["train", "a2c", "odd_environments:Line-v0", "--backbone", "cnn"], "cnn"),
        (["train", "ppo", "CartPole-v1", "--run-dir", "odd_environments.py"], "cannot write odd_environments.py"),
        (["train", "ppo", "CartPole-v1", "--run-dir", "odd_environments.py/runs"], "cannot write odd_environments.py/runs"),
        (["train", "ppo", "CartPole-v1", "--name", "x" * 300], "cannot write runs"),
        (["eval"], "see rltool eval --help"),
        (["eval", "nothing"], "there is no run nothing; train one with: rltool train a2c CartPole-v1"),
        (["eval", "latest"], "there is no run latest"),
        (["eval", "odd_environments.py"], "odd_environments.py is damaged or was not written by rltool"),
        (["eval", "."], "is not a run: it has no config.json"),
        (["resume"], "see rltool resume --help"),
        (["resume", "nothing"], "there is no run nothing"),
        (["resume", "nothing", "-n", "0"], "Invalid value for '--total-timesteps'"),
        (["plot"], "see rltool plot --help"),
        (["plot", "nothing"], "there is no run nothing"),
        (["plot", "."], "is not a run, and there is none in it"),
        (["--colour"], "no option --colour; see rltool --help"),
    ],
)  # fmt: skip
def test_one_clear_sentence_and_nothing_written(cli, workplace, toy, arguments, sentence):
    done = cli(*arguments)
    said = done.sentence(2)
    assert sentence in said
    assert done.out == ""
    assert not list(workplace.glob("runs/*")), "something was written"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["eval", "RUN", "--episodes", "0"], "Invalid value for '--episodes'"),
        (["eval", "RUN", "--seed", "-1"], "Invalid value for '--seed'"),
        (["eval", "RUN", "--env", "CartPole-v3"], "did you mean 'CartPole-v1'?"),
        (["eval", "RUN", "--env", "Pendulum-v1"], "Pendulum-v1 does not fit this agent: its observation space is Box("),
        (["eval", "RUN", "--env", "Acrobot-v1"], "Acrobot-v1 does not fit this agent"),
        (["eval", "RUN", "--env-arg", "gravity=3"], "environment 'CartPole-v1' has no option 'gravity'"),
        (["eval", "RUN", "--render", "rgb"], "'rgb' is not one of 'human'"),
        (["plot", "RUN", "--metric", "reward"], "no run has the metric 'reward'; there are"),
        (["plot", "RUN", "--out", "curve.jpg"], "--out ends in .png, .svg or .pdf; not 'curve.jpg'"),
        (["plot", "RUN", "--statistic", "median"], "'median' is not one of 'mean', 'iqm'"),
        (["plot", "RUN", "--out", "odd_environments.py/x.png"], "cannot write odd_environments.py/x.png"),
        (["resume", "RUN", "--total-timesteps", "many"], "Invalid value for '--total-timesteps'"),
    ],
)  # fmt: skip
def test_mistakes_with_a_run(cli, trained, arguments, sentence):
    before = {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()}
    done = cli(*[str(trained) if a == "RUN" else a for a in arguments])
    assert sentence in done.sentence(2)
    assert {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()} == before


def test_the_traceback_is_shown_when_asked_for(cli, monkeypatch):
    with pytest.raises(rltool.UserError, match="CartPole-v9"):
        cli("train", "a2c", "CartPole-v9", "--debug")


def test_no_display(cli, trained, monkeypatch):
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"):
        monkeypatch.delenv(name, raising=False)
    said = cli("eval", trained, "--render", "human").sentence(2)
    assert "needs a display" in said


def test_no_ffmpeg(cli, trained, monkeypatch):
    import imageio_ffmpeg

    def missing():
        raise RuntimeError("No ffmpeg exe could be found.")

    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", missing)
    assert "pip install imageio-ffmpeg, or film with --gif" in cli("eval", trained, "--video").sentence(2)
    assert not (trained / "videos").exists()


# Presets.


def config_of(run):
    return json.loads((run / "config.json").read_text())


def test_options_given_win_over_the_preset_and_the_preset_over_defaults(cli, workplace, toy):
    done = cli("train", "toy", "CartPole-v1", "--num-envs", 8, "--name", "a")
    assert done.code == 0
    assert "tuned options (--preset none to do without)" in done.err
    config = config_of(workplace / "runs" / "a")
    assert config["config"]["num_envs"] == 8
    assert config["config"]["gamma"] == 0.9
    assert config["config"]["gae_lambda"] == A2CConfig().gae_lambda  # The default.
    assert config["run"]["total_timesteps"] == 64
    assert config["run"]["preset"] == "CartPole-v1"


def test_presets_can_be_left_out_or_taken_from_elsewhere(cli, workplace, toy):
    done = cli("train", "toy", "CartPole-v1", "--preset", "none", "-n", 32, "--eval-freq", 0, "--name", "b")
    assert "default options" in done.err
    assert config_of(workplace / "runs" / "b")["config"] == A2CConfig().model_dump(mode="json")
    done = cli("train", "toy", "CartPole-v1", "--preset", "Acrobot-v1", "-n", 32, "--name", "c")
    assert "options tuned for Acrobot-v1" in done.err
    config = config_of(workplace / "runs" / "c")
    assert config["config"]["num_envs"] == 4
    assert config["run"]["preset"] == "Acrobot-v1"
    assert "CartPole-v1, Acrobot-v1" in cli("list", "methods").out
    (line,) = [line for line in cli("list", "envs", "CartPole-v1").out.splitlines() if line.startswith("CartPole-v1\t")]
    assert "toy" in line


# An environment that fails in the middle.


@pytest.mark.parametrize(
    ("fail", "sentence"),
    [
        ("raise", "the environment failed in step(): RuntimeError: motor 3 is on fire"),
        ("nan", "observation that is not a finite number"),
        ("inf-reward", "reward that is not a finite number"),
    ],
)
def test_an_environment_that_fails_loses_nothing(cli, workplace, fail, sentence):
    done = cli("train", "a2c", "odd_environments:Line-v0", "-n", 600, "--log-freq", 50, "--eval-freq", 0,
               "--env-arg", f"fail={fail}", "--name", "f")  # fmt: skip
    assert sentence in done.sentence(1)
    assert done.err.splitlines()[-1] == "saved up to timestep 325; go on with: rltool resume runs/f"
    run = rltool.load("f")
    assert run.summary["finished"] is False
    assert run.summary["total_timesteps"] == 325
    assert run.checkpoints()
    assert run.agent.predict(run.agent.observation_space.sample())[0] in (0, 1)
    # The user mends the environment; the run goes on.
    config = config_of(run.path)
    config["run"]["env_kwargs"] = {}
    (run.path / "config.json").write_text(json.dumps(config))
    again = cli("resume", "f")
    assert again.code == 0, again.err
    assert "from timestep 325" in again.err
    assert "the resume is not exact" in again.err
    rows = [row["time/total_timesteps"] for row in rltool.load("f").metrics]
    assert rows == list(range(50, 601, 50))


def test_what_nobody_foresaw_is_one_sentence_too(cli, workplace):
    for arguments in (("--env-arg", "at=0"), ("--env-arg", "at=40", "--eval-freq", 0)):
        done = cli("train", "a2c", "odd_environments:Line-v0", "-n", 100, "--env-arg", "fail=reset", *arguments)
        assert "RuntimeError: the floor is lava" in done.sentence(1)
        assert "Traceback" not in done.err


def test_weights_that_overflow_are_named(cli, workplace):
    done = cli("train", "a2c", "CartPole-v1", "-n", 4_000, "--preset", "none", "--learning-rate", "1e30", "--max-grad-norm", "1e30",
               "--log-freq", 50, "--eval-freq", 0, "--name", "f")  # fmt: skip
    assert "lower --learning-rate" in done.sentence(1)
    assert "start again" in done.err or "saved up to" in done.err


# A disk that is full or read-only. (The superuser ignores permissions, so the system calls are made to fail.)


def refuse(monkeypatch, number, name, when=lambda path: True):
    """Make `os.replace` or `open` for writing fail."""
    if name == "replace":
        original = os.replace

        def replace(source, target, **more):
            if when(str(target)):
                raise OSError(number, os.strerror(number), str(target))
            return original(source, target, **more)

        monkeypatch.setattr(os, "replace", replace)
        return
    opened = builtins.open

    def opening(file, mode="r", *more, **options):
        if any(m in mode for m in "wax+") and when(str(file)):
            raise OSError(number, os.strerror(number), str(file))
        return opened(file, mode, *more, **options)

    monkeypatch.setattr(builtins, "open", opening)


@pytest.mark.parametrize("name", ["replace", "open"])
@pytest.mark.parametrize(
    ("number", "reason"), [(errno.ENOSPC, "the disk is full; free some space"), (errno.EROFS, "the disk is read-only")]
)
def test_a_run_that_cannot_be_written_is_refused_and_leaves_nothing(cli, workplace, monkeypatch, name, number, reason):
    with monkeypatch.context() as patch:
        refuse(patch, number, name, when=lambda path: "runs" in path)
        done = cli("train", "a2c", "CartPole-v1", "-n", 64, "--name", "r")
    assert reason in done.sentence(2)
    assert not list((workplace / "runs").iterdir())
    assert cli("train", "a2c", "CartPole-v1", "-n", 64, "--eval-freq", 0, "--quiet", "--name", "r").code == 0


@pytest.mark.parametrize("name", ["replace", "open"])
def test_a_disk_that_fills_up_in_the_middle_stops_the_training(cli, workplace, monkeypatch, name):
    arguments = (
        "train",
        "a2c",
        "CartPole-v1",
        "-n",
        640,
        "--preset",
        "none",
        "--log-freq",
        64,
        "--save-freq",
        64,
        "--eval-freq",
        0,
    )
    with monkeypatch.context() as patch:
        refuse(patch, errno.ENOSPC, name, when=lambda path: "0000320" in path)
        done = cli(*arguments, "--name", "r")
    assert "step-000000000320.safetensors: the disk is full; free some space" in done.sentence(1)
    # What failed once may fail again: what was saved before is what counts.
    assert done.err.splitlines()[-1] == "saved up to timestep 260; go on with: rltool resume runs/r"
    assert cli("resume", "r", "--quiet").code == 0
    assert cli(*arguments, "--name", "whole", "--quiet").code == 0
    one, two = (workplace / "runs" / n / "model.safetensors" for n in ("r", "whole"))
    assert one.read_bytes() == two.read_bytes()


def test_a_disk_too_full_for_rows_or_pictures(cli, workplace, monkeypatch):
    arguments = ("train", "a2c", "CartPole-v1", "-n", 128, "--preset", "none", "--log-freq", 64, "--eval-freq", 0)
    with monkeypatch.context() as patch:
        refuse(patch, errno.ENOSPC, "open", when=lambda path: path.endswith("metrics.csv"))
        assert "metrics.csv: the disk is full" in cli(*arguments, "--name", "r").sentence(1)
    assert cli("resume", "r", "--quiet").code == 0
    with monkeypatch.context() as patch:
        refuse(patch, errno.ENOSPC, "open", when=lambda path: path.endswith(".png"))
        assert "the disk is full" in cli(*arguments, "--name", "s").sentence(1)
    assert rltool.load("s").summary["finished"] is True

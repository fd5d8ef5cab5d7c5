"""`rltool record` and `rltool demos`."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from rltool.envs import load_demonstrations


@pytest.fixture(autouse=True)
def own_datasets(datasets):
    return datasets


FIGURES = {"name", "path", "episodes", "timesteps", "mean_return", "std_return", "mean_length", "env"}


def test_recording_a_run(cli, trained, datasets):
    done = cli("record", trained, "--episodes", 5, "--out", "contract-cartpole", "--json")
    assert done.code == 0, done.err
    assert done.json.keys() == FIGURES
    assert done.json["name"] == "contract-cartpole-v0"
    assert done.json["path"] == str(datasets / "contract-cartpole-v0")
    demos = load_demonstrations("contract-cartpole")
    evaluated = cli("eval", trained, "--episodes", 5, "--json").json
    assert evaluated["returns"] == demos.returns.tolist()
    for name in ("mean_return", "std_return", "mean_length", "episodes"):
        assert done.json[name] == pytest.approx(evaluated[name])
    again = cli("record", trained, "--episodes", 5, "--out", "contract-cartpole")
    assert again.sentence(2).startswith("there are demonstrations contract-cartpole-v0 already; choose another name")
    assert cli("record", trained, "-e", 2, "-o", "contract-cartpole", "--overwrite").code == 0
    assert load_demonstrations("contract-cartpole").num_episodes == 2


def test_looking_at_them(cli, trained, workplace):
    cli("record", trained, "--episodes", 4, "--out", "mine")
    shown = cli("demos", "mine", "--env", "CartPole-v1", "--plot", "pictures/mine.png")
    assert shown.code == 0, shown.err
    for text in ("mine-v0", "CartPole-v1", "Discrete(2)", "4:", "terminated", "median", "█", "%", "pictures/mine.png"):
        assert text in shown.out
    assert (workplace / "pictures" / "mine.png").stat().st_size > 10_000
    figures = cli("demos", "mine", "--json").json
    assert figures["episodes"] == 4
    assert figures["terminated"] + figures["truncated"] == 4
    assert sum(figures["actions"]["action"]) == figures["timesteps"] == 4 * figures["length"]["mean"]
    for listing in (cli("demos"), cli("list", "demos")):
        assert listing.out.split("\t")[:3] == ["mine-v0", "CartPole-v1", "4"]
    assert cli("demos", "--json").json == {"demonstrations": ["mine-v0"]}


def test_no_demonstrations_yet(cli):
    assert "no demonstrations in" in cli("demos").err
    assert cli("demos").code == 0
    assert cli("demos", "mine").sentence(2).startswith("no demonstrations 'mine-v0', nor any others")


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1", "odd_environments:Line-v0", "Hopper-v5"])
def test_random_agents_into_files(cli, env_id, workplace):
    done = cli("record", "--random", env_id, "--episodes", 3, "--out", "new/a.npz", "--json")
    assert done.code == 0, done.err
    assert done.json | {"name": "new/a.npz", "path": "new/a.npz", "episodes": 3, "env": env_id} == done.json
    assert load_demonstrations("new/a.npz").env_id == env_id
    for option in ((), ("--env", env_id)):
        shown = cli("demos", "new/a.npz", *option)
        assert shown.code == 0, shown.err
        assert env_id in shown.out


def test_arguments_of_the_environment(cli):
    cli("record", "--random", "Pendulum-v1", "-e", 2, "-o", "a", "--env-arg", "max_episode_steps=7", "--seed", 3)
    demos = load_demonstrations("a")
    assert (demos.lengths.tolist(), demos.env_kwargs) == ([7, 7], {"max_episode_steps": 7})
    assert "max_episode_steps=7" in cli("demos", "a", "--env", "Pendulum-v1").out


def test_keeping_only_good_episodes(cli):
    some = cli("record", "--random", "CartPole-v1", "-e", 40, "-o", "some", "--min-return", 20, "--json").json
    assert 0 < some["episodes"] < 40
    assert load_demonstrations("some").returns.min() >= 20
    none = cli("record", "--random", "CartPole-v1", "-e", 3, "-o", "none", "--min-return", 900)
    assert none.sentence(2).startswith("no episode had a return of 900; the best had ")


def test_models_of_sb3(cli, workplace):
    stable_baselines3 = pytest.importorskip("stable_baselines3")
    stable_baselines3.A2C("MlpPolicy", "CartPole-v1", seed=0).save("model.zip")
    assert "add --env" in cli("record", "model.zip", "--out", "mine").sentence(2)
    done = cli("record", "model.zip", "--env", "CartPole-v1", "-e", 3, "--out", "mine", "--stochastic", "--json")
    assert done.json["episodes"] == 3
    assert cli("demos", "mine", "--env", "CartPole-v1").code == 0


def test_by_hand_without_a_display(cli, monkeypatch):
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"):
        monkeypatch.delenv(name, raising=False)
    assert "needs a display" in cli("record", "--human", "CartPole-v1", "--out", "mine").sentence(2)


def test_by_hand(cli, monkeypatch):
    from rltool.agents import human, recording

    def play(env_id, episodes, seed, env_kwargs, fps):
        assert (episodes, seed, fps) == (50, 4, 12.0)
        return recording.record(
            recording.RandomAgent(human.make_rendered_env(env_id, "rgb_array").action_space), env_id, 2
        )

    monkeypatch.setattr(human, "human_episodes", play)
    done = cli("record", "--human", "CartPole-v1", "--out", "mine", "--seed", 4, "--fps", 12, "--json")
    assert done.json["episodes"] == 2


@pytest.mark.parametrize("options", [(), ("--min-return", -1)])
def test_by_hand_what_was_finished_before_a_failure_is_written(cli, monkeypatch, options):
    from rltool.agents import human, recording

    def play(env_id, *arguments):
        agent = recording.RandomAgent(human.make_rendered_env(env_id, "rgb_array").action_space)
        raise human.PlayFailedError("the environment failed: motor 3", recording.record(agent, env_id, 2))

    monkeypatch.setattr(human, "human_episodes", play)
    done = cli("record", "--human", "CartPole-v1", "--out", "mine.npz", *options)
    assert done.code == 1
    assert "the environment failed: motor 3\nwhat was finished before is kept: 2 episodes, mine.npz" in done.err
    assert load_demonstrations("mine.npz").num_episodes == 2


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--random", "--human", "CartPole-v1", "--out", "a"], "--random and --human exclude each other"),
        (["--random", "CartPole-v1", "--env", "CartPole-v1", "--out", "a"], "leave out --env CartPole-v1"),
        (["--random", "CartPole-v9", "--out", "a"], "did you mean 'CartPole-v1'"),
        (["--random", "CartPole-v1", "--out", "a b.csv"], "'a b.csv' names no demonstrations"),
        (["--random", "odd_environments:GraphObservations-v0", "--out", "a"], "graphs cannot be saved"),
        (["--random", "odd_environments:TextObservations-v0", "--out", "a"], "Text space"),
        (["--random", "odd_environments:ManyActions-v0", "--out", "a"], "not of Tuple"),
        (["nothing", "--out", "a"], "no run"),
        (["--random", "CartPole-v1"], "--out"),
    ],
)
def test_mistakes_of_recording(cli, arguments, sentence):
    assert sentence in cli("record", *arguments).sentence(2)
    assert cli("demos", "--json").json == {"demonstrations": []}


def test_a_taken_name_is_refused_before_anything_is_played(cli, monkeypatch, workplace):
    np.savez("taken.npz")
    monkeypatch.setattr("rltool.agents.recording.record", lambda *_: pytest.fail("played"))
    assert "taken.npz already" in cli("record", "--random", "CartPole-v1", "--out", "taken.npz").sentence(2)


def test_mistakes_of_looking(cli, workplace):
    cli("record", "--random", "CartPole-v1", "-e", 2, "--out", "mine")
    assert "recorded in CartPole-v1, not in Acrobot-v1" in cli("demos", "mine", "--env", "Acrobot-v1").sentence(2)
    assert "did you mean 'mine-v0'" in cli("demos", "mime").sentence(2)
    assert "--plot ends in" in cli("demos", "mine", "--plot", "a.txt").sentence(2)
    shutil.rmtree(workplace / "datasets" / "mine-v0" / "data")
    (workplace / "datasets" / "mine-v0" / "data").mkdir()
    assert "cannot be read" in cli("demos", "mine").sentence(2)


def test_a_full_disk(cli, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", full)
    failed = cli("record", "--random", "CartPole-v1", "-e", 1, "--out", "a.npz")
    assert failed.sentence(1) == "cannot write a.npz: No space left on device"


def test_looking_takes_no_torch(command, workplace):
    np.savez(
        "a.npz", observations=np.zeros((2, 1)), actions=np.arange(2), rewards=np.ones(2), episode_ends=[False, True]
    )
    (workplace / "torch.py").write_text("raise RuntimeError('torch is imported')")
    for arguments in (
        ["demos", "a.npz"],
        ["demos"],
        ["record", "--help"],
        ["record", "--random", "x", "--out", "a.npz"],
    ):
        done = command(*arguments, cwd=workplace)
        assert "torch is imported" not in done.err, done.err
        assert done.code == (2 if "x" in arguments else 0), done.err


def test_names_are_completed(cli, workplace):
    from rltool.cli.completion import complete_demonstrations

    cli("record", "--random", "CartPole-v1", "-e", 1, "--out", "mine")
    cli("record", "--random", "CartPole-v1", "-e", 1, "--out", "my.npz")
    assert complete_demonstrations("m") == ["mine-v0", "my.npz"]
    assert complete_demonstrations("my") == ["my.npz"]


@pytest.mark.parametrize("out", ["taken.txt/a.npz", "taken.txt/deep/a.npz", "/proc/a.npz", "/proc/deep/a.npz"])
def test_a_place_that_cannot_be_written_is_refused_before_anything_is_played(cli, workplace, monkeypatch, out):
    from rltool.agents import recording

    monkeypatch.setattr(recording, "record", lambda *arguments: pytest.fail("it was played"))
    (workplace / "taken.txt").write_text("")
    if out.startswith("/proc") and not Path("/proc").is_dir():
        pytest.skip("a folder of Linux, which even root cannot write to")
    assert f"cannot be written to {out}" in cli("record", "--random", "CartPole-v1", "--out", out).sentence(2)


def test_a_dataset_where_none_can_be_written_is_refused_too(cli, workplace, monkeypatch):
    (workplace / "taken.txt").write_text("")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(workplace / "taken.txt"))
    assert "cannot be written to" in cli("record", "--random", "CartPole-v1", "--out", "mine").sentence(2)
    assert (workplace / "taken.txt").read_text() == ""

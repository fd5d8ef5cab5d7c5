"""Training and resuming from Python."""

from __future__ import annotations

import json
import signal
import threading

import gymnasium as gym
import numpy as np
import pytest
import safetensors.torch
import torch

import rltool
from rltool.training.checkpoint import State, load_state, read_values, save_state, write_atomically
from rltool.training.recorder import Interruption
from rltool.training.run import sanitize

SMALL = {"preset": "none", "num_envs": 4, "log_freq": 100, "eval_freq": 200, "save_freq": 200, "eval_episodes": 2}


@pytest.fixture
def train(tmp_path):
    def go(method="a2c", data="CartPole-v1", **options):
        return rltool.train(method, data, **{"run_dir": str(tmp_path), **SMALL, **options})

    return go


def deterministic(run):
    return [{k: v for k, v in row.items() if k not in ("time/time_elapsed", "time/fps")} for row in run.metrics]


def test_a_run_has_what_the_example_uses(train):
    run = train(total_timesteps=600, seed=0, name="r")
    assert repr(run) == f"Run({str(run.path)!r})"
    assert run.summary["total_timesteps"] == 600
    assert run.model is run.agent
    assert [row["time/total_timesteps"] for row in run.metrics] == [100, 200, 300, 400, 500, 600]
    assert rltool.load(run.path).config == run.config
    action, state = run.agent.predict(np.zeros(4, np.float32), deterministic=True)
    assert action in (0, 1)
    assert state is None


def test_the_weights_kept_are_those_evaluated_best(train):
    run = train(total_timesteps=2_000, seed=1)
    best = max(row["eval/mean_return"] for row in run.metrics if "eval/mean_return" in row)
    assert run.summary["mean_return"] == pytest.approx(best)
    again = rltool.evaluate(run.agent, "CartPole-v1", episodes=2, seed=1)
    assert again.mean_return == pytest.approx(run.summary["mean_return"])


def test_evaluating_often_changes_nothing_that_is_learned(train):
    often, never = train(total_timesteps=800, eval_freq=100), train(total_timesteps=800, eval_freq=0)
    one, two = (load_state(run.checkpoints()[-1]).tensors for run in (often, never))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_training_leaves_the_global_generators_alone(train):
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002 - the global one is what is tested.
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    train(total_timesteps=100, normalize_observations=True)
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()  # noqa: NPY002


def test_a_callback_sees_every_update_and_can_end_the_training(train):
    seen = []

    def callback(learner, metrics):
        seen.append((learner.timesteps, set(metrics)))
        return len(seen) < 5

    run = train(total_timesteps=10_000, callback=callback)
    assert [timesteps for timesteps, _ in seen] == [20, 40, 60, 80, 100]
    assert "policy_loss" in seen[0][1]
    assert run.summary["finished"] is False
    assert run.summary["total_timesteps"] == 100
    assert rltool.resume(run.path, 200).summary["finished"] is True


def test_an_exception_of_a_callback_passes_and_nothing_is_lost(train, tmp_path):
    def callback(learner, metrics):
        if learner.timesteps >= 300:
            raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine") as caught:
        train(total_timesteps=1_000, callback=callback, name="r")
    assert "saved up to timestep 300; go on with: rltool resume" in caught.value.__notes__[0]
    assert rltool.load(tmp_path / "r").summary["total_timesteps"] == 300
    assert rltool.resume(tmp_path / "r").summary["total_timesteps"] == 1_000


@pytest.mark.parametrize("method", ["a2c", "ppo"])
def test_in_parts_is_the_same_as_in_one(train, method):
    options = {"num_steps": 25, "normalize_observations": True, "normalize_returns": True}
    if method == "ppo":
        options |= {"batch_size": 50, "num_epochs": 2}
    whole = train(method, total_timesteps=1_200, **options)
    parts = train(method, total_timesteps=400, **options)
    for total in (600, 1_000, 1_200):
        parts = rltool.resume(parts.path, total)
    assert deterministic(whole) == deterministic(parts)
    assert (whole.path / "model.safetensors").read_bytes() == (parts.path / "model.safetensors").read_bytes()
    one, two = (load_state(run.checkpoints()[-1]) for run in (whole, parts))
    assert all(torch.equal(one.tensors[name], two.tensors[name]) for name in one.tensors)


@pytest.mark.parametrize("stop", [60, 220, 580])
def test_stopped_by_a_callback_and_resumed_is_the_same_as_straight(train, stop):
    """With a schedule, too: the end was known from the beginning."""
    options = {"total_timesteps": 800, "seed": 3, "learning_rate_schedule": "linear", "normalize_returns": True}
    straight = train(**options)
    stopped = train(**options, callback=lambda learner, _: learner.timesteps < stop)
    assert stopped.summary["finished"] is False
    assert stopped.summary["total_timesteps"] == stop
    resumed = rltool.resume(stopped.path)
    assert deterministic(resumed) == deterministic(straight)
    assert (resumed.path / "model.safetensors").read_bytes() == (straight.path / "model.safetensors").read_bytes()
    one, two = (load_state(run.checkpoints()[-1]).tensors for run in (straight, resumed))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_run_killed_before_its_first_checkpoint_starts_from_its_backbone_again(train):
    source = train(total_timesteps=100, seed=1, name="source")

    def kill(learner, metrics):
        raise KeyboardInterrupt

    options = {"init_backbone": str(source.path), "freeze_backbone": 10_000, "total_timesteps": 400}
    with pytest.raises(KeyboardInterrupt):
        train(name="killed", callback=kill, **options)
    killed = source.path.parent / "killed"
    assert not list((killed / "checkpoints").iterdir())
    theirs, mine = (run.agent.policy.backbone.state_dict() for run in (source, rltool.resume(killed)))
    assert all(torch.equal(weight, mine[name]) for name, weight in theirs.items())


def test_shaping_functions_are_those_of_the_beginning(train):
    given = {"shaping": lambda observation, action, reward, following, terminated: reward - following[0] ** 2}
    straight = train(total_timesteps=400, **given)
    part = train(total_timesteps=400, callback=lambda learner, metrics: learner.timesteps < 200, **given)
    with pytest.raises(rltool.UserError, match="give it again"):
        rltool.resume(part.path)
    assert deterministic(rltool.resume(part.path, **given)) == deterministic(straight)
    plain = train(total_timesteps=200)
    for name in ("shaping", "potential", "shapin"):
        with pytest.raises(rltool.UserError, match=f"were shaped by no {name}; leave it out"):
            rltool.resume(plain.path, 400, **{name: given["shaping"]})


def test_what_was_trained_on_another_device_plays_here(train):
    run = train(total_timesteps=100)
    config = json.loads((run.path / "config.json").read_text())
    config["run"]["device"] = "cuda:7"
    run.write_json("config.json", config)
    opened = rltool.load(run.path)
    assert opened.agent.device == torch.device("cpu")
    with pytest.raises(rltool.UserError, match="no device 'cuda:7'"):  # Going on there is another training.
        rltool.resume(run.path, 200)


def test_another_seed_is_another_run(train):
    one, two = (train(total_timesteps=400, seed=seed) for seed in (0, 1))
    assert (one.path / "model.safetensors").read_bytes() != (two.path / "model.safetensors").read_bytes()


def test_time_adds_up_over_resumes(train):
    run = train(total_timesteps=400)
    before = run.summary["seconds"]
    run = rltool.resume(run.path, 800)
    assert run.summary["seconds"] > before
    elapsed = [row["time/time_elapsed"] for row in run.metrics]
    assert elapsed == sorted(elapsed)


def test_resuming_a_finished_run_changes_nothing(train):
    run = train(total_timesteps=200)
    before = {path: path.stat().st_mtime_ns for path in run.path.rglob("*")}
    assert rltool.resume(run.path).path == run.path
    assert rltool.resume(run.path, 100).summary == run.summary
    assert {path: path.stat().st_mtime_ns for path in run.path.rglob("*")} == before


def test_mistakes_write_nothing(train, tmp_path):
    for mistake in (
        {"method": "poo"},
        {"data": "CartPole-v9"},
        {"gama": 1},
        {"gamma": 2},
        {"total_timesteps": 0},
        {"preset": "Nowhere-v0"},
        {"device": "toaster"},
        {"env_kwargs": {"x": 1}},
        {"env_kwargs": None},
        {"env_kwargs": ["x"]},
        {"env_kwargs": {"seed": 1}},
        {"env_kwargs": {"num_envs": 1}},
        {"env_kwargs": {"wrappers": [gym.Wrapper]}},
        {"env_kwargs": {"max_episode_steps": np.int64(9)}},
        {"num_envs": "many"},
        {"learning_rate": float("nan")},
        {"max_grad_norm": float("inf")},
        {"name": "latest"},
        {"hidden_sizes": (0,)},
    ):
        with pytest.raises(rltool.UserError):
            train(**mistake)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("hidden", [False, True], ids=["its own generator", "a generator of its module"])
def test_an_environment_that_cannot_be_played_again_resumes_inexactly_and_says_so(train, tmp_path, capsys, hidden):
    generator = np.random.default_rng()

    class Corridor(gym.Env):
        observation_space = gym.spaces.Box(0, 1, (1,), np.float32)
        action_space = gym.spaces.Discrete(2)

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            self.place = 0
            return np.zeros(1, np.float32), {}

        def step(self, action):
            self.place += int(action) * (generator if hidden else self.np_random).uniform(0.5, 1)
            return np.full(1, self.place / 5, np.float32), float(action), self.place >= 5, False, {}

    gym.register("TestCorridor-v0", Corridor, max_episode_steps=20)
    try:
        run = train("a2c", "TestCorridor-v0", total_timesteps=200, num_envs=2)
        capsys.readouterr()
        rltool.resume(run.path, 400, progress=True)
        assert ("the resume is not exact" in capsys.readouterr().err) is hidden
    finally:
        del gym.registry["TestCorridor-v0"]


def test_training_works_in_another_thread(train):
    results = []
    thread = threading.Thread(target=lambda: results.append(train(total_timesteps=100)))
    thread.start()
    thread.join()
    assert results[0].summary["finished"] is True


def test_interruption_gives_signals_back():
    before = signal.getsignal(signal.SIGINT)
    asked = []
    with Interruption(lambda: asked.append(1)):
        signal.raise_signal(signal.SIGINT)
        assert asked == [1]
        assert signal.getsignal(signal.SIGINT) is before  # The second one is not caught.
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


# State on disk.


def test_the_same_state_is_the_same_bytes(tmp_path):
    tensors = {"b": torch.arange(3.0), "a": torch.ones(2, 2)}
    save_state(tmp_path / "one", State(tensors, {"x": 1, "a": [1, 2]}))
    save_state(tmp_path / "two", State(dict(reversed(tensors.items())), {"a": [1, 2], "x": 1}))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    state = load_state(tmp_path / "one")
    assert state.values == {"a": [1, 2], "x": 1} == read_values(tmp_path / "one")
    assert all(torch.equal(state.tensors[name], tensors[name]) for name in tensors)


def test_every_flipped_byte_is_found(tmp_path):
    state = State({"a": torch.arange(6.0).view(2, 3), "n": torch.tensor(True)}, {"x": [1, 0.5], "y": {"z": "text"}})
    save_state(tmp_path / "good", state)
    content = (tmp_path / "good").read_bytes()
    for place in range(len(content)):
        for bit in (1, 32, 128):
            damaged = bytearray(content)
            damaged[place] ^= bit
            (tmp_path / "bad").write_bytes(damaged)
            with pytest.raises(rltool.UserError, match="is damaged or was not written by rltool"):
                load_state(tmp_path / "bad")


def test_tensors_of_every_kind_can_be_saved(tmp_path):
    tensors = {
        "stride 0": torch.tensor(3).expand(1),
        "broadcast": torch.ones(1, 2).expand(3, 2),
        "transposed": torch.arange(6).view(2, 3).T,
        "scalar": torch.tensor(2.0, dtype=torch.float64),
        "empty": torch.zeros(0, 4),
        "half": torch.ones(3, dtype=torch.bfloat16),
        "flags": torch.tensor([True, False]),
    }
    save_state(tmp_path / "file", State(tensors, {}))
    loaded = load_state(tmp_path / "file").tensors
    assert all(torch.equal(tensors[name], loaded[name]) for name in tensors)


def test_values_are_checked_as_json_has_them(tmp_path):
    save_state(tmp_path / "file", State({}, {"counts": {9: 1, 10: 2}, "pair": (1, float("nan"))}))
    values = load_state(tmp_path / "file").values
    assert values["counts"] == {"9": 1, "10": 2}
    assert values["pair"][0] == 1


def test_files_from_before_there_were_checksums_can_be_read(tmp_path):
    safetensors.torch.save_file({"a": torch.ones(2)}, tmp_path / "old", {"rltool": '{"x": 1}'})
    state = load_state(tmp_path / "old")
    assert state.values == {"x": 1} == read_values(tmp_path / "old")
    assert torch.equal(state.tensors["a"], torch.ones(2))


def test_resuming_removes_what_a_killed_process_left(train):
    run = train(total_timesteps=400)
    left = [run.path / ".metrics.csv.1.tmp", run.path / "checkpoints" / ".step-000000000600.safetensors.1.tmp"]
    for file in left:
        file.write_bytes(b"half")
    rltool.resume(run.path, 500)
    assert not any(file.exists() for file in left)


def test_tensors_under_a_prefix():
    state = State()
    state.add("policy", {"w": torch.ones(1)})
    state.add("policy.head", {"w": torch.zeros(1)})
    state.add("other", {"w": torch.zeros(1)})
    assert set(state.take("policy")) == {"w", "head.w"}
    assert set(state.take("policy.head")) == {"w"}


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", full)
        with pytest.raises(rltool.TrainingError, match="the disk is full; free some space"):
            write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_names_become_plain_folder_names():
    assert sanitize("a2c-module:ALE/Pong-v5~x@y>z w\\u") == "a2c-module-ALE-Pong-v5-x-y-z-w-u"


def test_config_json_says_how_it_was_made(train):
    config = json.loads((train(total_timesteps=20, seed=7).path / "config.json").read_text())
    assert config["versions"].keys() == {"python", "rltool", "torch", "numpy", "gymnasium"}
    assert config["format"] == 1
    assert config["platform"]
    assert config["run"]["seed"] == 7
    assert config["config"]["num_envs"] == 4
    assert isinstance(config["command"], str)

"""Frames of an agent's game as a data set."""

import gymnasium as gym
import numpy as np
import pytest

import rltool
from rltool.agents import frames
from rltool.agents.evaluation import watch
from rltool.data import load_dataset
from rltool.errors import UserError


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return rltool.train("a2c", "CartPole-v1", total_timesteps=400, run_dir=str(tmp_path_factory.mktemp("runs")))


def test_frames_are_what_a_viewer_sees_and_the_same_again(run, monkeypatch):
    data = load_dataset(f"frames:{run.path},size=16,n=30", labeled=False)
    assert data.train.x.shape == (24, 3, 16, 16)
    assert data.test.x.shape == (6, 3, 16, 16)
    assert data.classes == ()
    x = np.concatenate([data.train.x, data.test.x])
    assert x.min() < 0.6 < x.max() == 1  # A dark cart on white.
    assert len(np.unique(x.reshape(30, -1), axis=0)) > 10
    again, _ = frames.record_frames(run.agent, "CartPole-v1", 30, 16)
    assert np.array_equal(again.transpose(0, 3, 1, 2), (x * 255).round().astype(np.uint8))

    monkeypatch.setattr(frames, "record_frames", None)  # They are kept.
    assert np.array_equal(load_dataset(f"frames:{run.path},n=30,size=16", labeled=False).test.x, data.test.x)


def test_frames_go_on_in_new_episodes(run):
    played = watch(run.agent, "CartPole-v1", 1, render_mode="rgb_array").lengths[0]
    assert played < 150
    long, _ = frames.record_frames(run.agent, "CartPole-v1", played + 20, 8)
    second, _ = frames.record_frames(run.agent, "CartPole-v1", 19, 8, seed=1)
    assert np.array_equal(long[played + 1 :], second)  # An episode of n steps has n + 1 frames.


class Leaning:
    """Pushes where the pole leans to, so that both actions occur."""

    action_space = gym.spaces.Discrete(2)

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        return (observation[:, 2] > 0).astype(int), state


def test_actions_are_what_the_agent_did_next():
    _, actions = frames.record_frames(Leaning(), "CartPole-v1", 150, 8)
    env, expected = gym.make("CartPole-v1"), []
    for seed in range(5):
        observation, done = env.reset(seed=seed)[0], False
        while not done:
            expected.append(int(observation[2] > 0))
            observation, _, terminated, truncated, _ = env.step(expected[-1])
            done = terminated or truncated
        expected.append(frames.NOTHING)
    assert actions.tolist() == expected[:150]
    assert set(expected[:150]) == {0, 1, frames.NOTHING}


def test_labels_are_actions_without_the_frames_that_nothing_follows(run):
    x, actions = frames.record_frames(run.agent, "CartPole-v1", 40, 8)
    data = load_dataset(f"frames:{run.path},size=8,n=40,label=action")
    followed = actions != frames.NOTHING
    assert 0 < followed.sum() < 40
    assert data.classes == ("0", "1")
    assert np.concatenate([data.train.y, data.test.y]).tolist() == actions[followed].tolist()
    pixels = np.concatenate([data.train.x, data.test.x]).transpose(0, 2, 3, 1)
    assert np.array_equal((pixels * 255).round(), x[followed])


def test_damaged_frames_are_recorded_again(run):
    data = load_dataset(f"frames:{run.path},size=8,n=20", labeled=False)
    (file,) = (run.path / "frames").glob("8x20-*.npz")
    file.write_bytes(file.read_bytes()[:100])
    assert np.array_equal(load_dataset(f"frames:{run.path},size=8,n=20", labeled=False).train.x, data.train.x)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (",size=4", "at least 8 pixels"),
        (",n=1", "at least 20"),
        (",width=9", "frames take size=PIXELS, n=NUMBER and label=action"),
        (",n=many", "not 'n=many'"),
    ],
)
def test_options_that_will_not_do(run, options, sentence):
    with pytest.raises(UserError, match=sentence):
        load_dataset(f"frames:{run.path}{options}", labeled=False)


def test_what_has_no_frames(run, tmp_path):
    with pytest.raises(UserError, match="there is no run nowhere"):
        load_dataset("frames:nowhere", labeled=False)
    with pytest.raises(UserError, match="has no labels"):
        load_dataset(f"frames:{run.path},size=8,n=20")
    continuous = rltool.train("a2c", "Pendulum-v1", total_timesteps=40, run_dir=str(tmp_path))
    with pytest.raises(UserError, match="actions of Pendulum-v1 are no labels"):
        load_dataset(f"frames:{continuous.path},size=8,n=20,label=action")
    classifier = rltool.train(
        "classifier", "digits", backbone="mlp", hidden_sizes=(4,), preset="none", total_timesteps=64, eval_freq=0,
        run_dir=str(tmp_path),
    )  # fmt: skip
    with pytest.raises(UserError, match="no trained agent that plays"):
        load_dataset(f"frames:{classifier.path}", labeled=False)

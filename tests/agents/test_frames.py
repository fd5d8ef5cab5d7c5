"""Frames of an agent's game as a data set."""

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
    again = frames.record_frames(run.agent, "CartPole-v1", 30, 16)
    assert np.array_equal(again.transpose(0, 3, 1, 2), (x * 255).round().astype(np.uint8))

    monkeypatch.setattr(frames, "record_frames", None)  # They are kept.
    assert np.array_equal(load_dataset(f"frames:{run.path},n=30,size=16", labeled=False).test.x, data.test.x)


def test_frames_go_on_in_new_episodes(run):
    played = watch(run.agent, "CartPole-v1", 1, render_mode="rgb_array").lengths[0]
    assert played < 150
    long = frames.record_frames(run.agent, "CartPole-v1", played + 20, 8)
    second = frames.record_frames(run.agent, "CartPole-v1", 19, 8, seed=1)
    assert np.array_equal(long[played + 1 :], second)  # An episode of n steps has n + 1 frames.


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
        (",width=9", "frames take size=PIXELS and n=NUMBER"),
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
    classifier = rltool.train(
        "classifier", "digits", backbone="mlp", hidden_sizes=(4,), preset="none", total_timesteps=64, eval_freq=0,
        run_dir=str(tmp_path),
    )  # fmt: skip
    with pytest.raises(UserError, match="no trained agent that plays"):
        load_dataset(f"frames:{classifier.path}", labeled=False)

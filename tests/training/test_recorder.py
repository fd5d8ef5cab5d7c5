"""Rows, evaluations and checkpoints come when they should, and hold what they say."""

from __future__ import annotations

import json

import pytest
import torch

from rltool.errors import TrainingError
from rltool.training.checkpoint import load_state
from rltool.training.progress import Progress
from rltool.training.recorder import Recorder, peak_memory_mb
from rltool.training.run import Run


def steps(run):
    return [row["time/total_timesteps"] for row in run.metrics]


def test_rows_come_when_a_multiple_is_passed_and_at_the_end(record):
    run, *_ = record(30, 300, log_freq=100, eval_freq=0, save_freq=0)
    assert steps(run) == [120, 210, 300]
    run, *_ = record(50, 325, log_freq=100, eval_freq=0, save_freq=0)
    assert steps(run) == [100, 200, 300, 350]  # The last, which no multiple asks for.
    run, *_ = record(250, 1_000, log_freq=100, eval_freq=0, save_freq=0)
    assert steps(run) == [250, 500, 750, 1_000]  # At most one an update.


def test_values_are_true_means_over_the_updates_since_the_last_row(record):
    run, *_ = record(25, 200, log_freq=100, eval_freq=0, save_freq=0)
    assert [row["train/loss"] for row in run.metrics] == [(25 + 50 + 75 + 100) / 4, (125 + 150 + 175 + 200) / 4]


def test_a_metric_that_some_updates_lack_is_the_mean_over_those_that_have_it(record):
    run, *_ = record(
        25,
        100,
        metrics=lambda t: {"loss": 1.0} if t == 25 else {"kl": torch.tensor(float(t))},
        log_freq=100,
        eval_freq=0,
    )
    (row,) = run.metrics
    assert row["train/loss"] == 1.0
    assert row["train/kl"] == 75.0


def test_evaluations_choose_the_best_weights_and_the_later_of_equals(record):
    run, learner, shown, _ = record(
        50, 500, scores=(1.0, 3.0, 2.0, 3.0, 0.0), log_freq=1_000, eval_freq=100, save_freq=0, eval_episodes=7, seed=5
    )
    assert learner.evaluated == [(t, 7, 5) for t in (100, 200, 300, 400, 500)]
    assert (run.path / "model.safetensors").read_text() == "400"
    assert run.summary["mean_return"] == 3.0
    assert run.summary["best_timesteps"] == 400
    assert [row["eval/mean_return"] for row in run.metrics] == [1.0, 3.0, 2.0, 3.0, 0.0]
    assert all("eval/score" not in row for row in run.metrics)
    assert [row["eval/mean_return"] for row in shown.rows] == [1.0, 3.0, 2.0, 3.0, 0.0]


def test_without_evaluations_the_last_weights_are_kept(record):
    run, learner, *_ = record(50, 500, eval_freq=0, save_freq=200)
    assert learner.evaluated == []
    assert (run.path / "model.safetensors").read_text() == "500"
    assert run.summary["mean_return"] == 500.0  # Of the last training episodes.
    assert not any(name.startswith("eval/") for row in run.metrics for name in row)


def test_the_last_two_checkpoints_are_kept(record):
    run, *_ = record(50, 525, eval_freq=0, save_freq=100)
    assert [p.name for p in run.checkpoints()] == ["step-000000000500.safetensors", "step-000000000550.safetensors"]
    run, *_ = record(50, 500, eval_freq=0, save_freq=0)
    assert [p.name for p in run.checkpoints()] == ["step-000000000500.safetensors"]  # Only at the end.


@pytest.mark.parametrize("keep", [1, 3])
def test_as_many_checkpoints_are_kept_as_were_asked_for(record, keep):
    run, *_ = record(100, 500, eval_freq=0, save_freq=100, keep_checkpoints=keep)
    expected = [f"step-{t:012d}.safetensors" for t in (100, 200, 300, 400, 500)][-keep:]
    assert [p.name for p in run.checkpoints()] == expected


def test_the_recorders_own_state_travels_in_the_checkpoint(record):
    run, learner, _, recorder = record(30, 90, log_freq=60, eval_freq=60, save_freq=30)
    state = load_state(run.checkpoints()[-1]).values["recorder"]
    assert state["timesteps"] == 90
    assert state["best"]["timesteps"] == 90
    assert state["elapsed"] > 0
    before = recorder.seconds()
    again = Recorder(run, learner, 300, Progress(), state)
    assert again.seconds() >= state["elapsed"]
    assert again.seconds() < before + 60  # It goes on from there; time between the two does not count.
    learner.timesteps = 120
    again(learner, {"loss": 1.0})
    assert steps(run) == [60, 90, 120]
    assert run.metrics[-1]["time/time_elapsed"] >= state["elapsed"] - 1e-3


def test_rows_after_the_checkpoint_are_dropped_on_resuming(record):
    run, learner, *_ = record(10, 100, log_freq=10, eval_freq=0, save_freq=50)
    state = load_state(run.checkpoints()[0]).values["recorder"]
    Recorder(run, learner, 100, Progress(), state)
    assert steps(run) == [10, 20, 30, 40, 50]


def test_a_metric_that_is_no_number_stops_the_training(record):
    with pytest.raises(TrainingError, match="train/loss stopped being a finite number before timestep 100;"):
        record(50, 200, metrics=lambda t: {"loss": float("nan")}, log_freq=100)


def test_weights_that_are_no_numbers_are_never_saved(make_run, record):
    run, learner, _, recorder = record(50, 100, eval_freq=0)
    learner.timesteps = 150
    learner.checkpoint = lambda: load_state(run.checkpoints()[-1])
    good = run.checkpoints()
    state = load_state(good[-1])
    state.tensors["policy.w"][:] = float("nan")
    learner.checkpoint = lambda: state
    with pytest.raises(TrainingError, match="weights stopped being finite"):
        recorder.save()
    assert run.checkpoints() == good


def test_the_summary_is_json_without_nan(record):
    run, *_ = record(50, 100, eval_freq=50)
    summary = json.loads((run.path / "summary.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert summary["finished"] is True
    assert summary["timesteps_per_second"] > 0
    assert 1 < summary["peak_memory_mb"] == pytest.approx(peak_memory_mb(), rel=0.5)
    assert Run(run.path).summary == summary

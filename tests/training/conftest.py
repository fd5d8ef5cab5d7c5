"""A learner without a network, so that what happens beside training can be tested exactly."""

from __future__ import annotations

import pytest
import torch

from rltool.training.checkpoint import State
from rltool.training.config import RunConfig
from rltool.training.progress import Progress
from rltool.training.recorder import Recorder
from rltool.training.run import create_run


class FakeLearner:
    """Counts; its evaluations give the scores it is told."""

    def __init__(self, scores=(1.0,)):
        self.timesteps = 0
        self.scores = list(scores)
        self.evaluated = []

    def metrics(self):
        return {"rollout/ep_rew_mean": float(self.timesteps)}

    def evaluate(self, episodes, seed):
        self.evaluated.append((self.timesteps, episodes, seed))
        score = self.scores[min(len(self.evaluated), len(self.scores)) - 1]
        return {"mean_return": score, "score": score}

    def save(self, path):
        path.write_text(str(self.timesteps))

    def checkpoint(self):
        return State({"policy.w": torch.tensor([float(self.timesteps)])}, {"timesteps": self.timesteps})


class Shown(Progress):
    """Remembers what it was given."""

    def __init__(self):
        self.rows, self.notes = [], []

    def update(self, row):
        self.rows.append(row)

    def note(self, message):
        self.notes.append(message)


@pytest.fixture
def make_run(tmp_path):
    """`make_run(log_freq=..., ...)` makes an empty run folder."""

    def make(**options):
        config = RunConfig(**{"run_dir": str(tmp_path / "runs"), **options})
        return create_run("a2c", "CartPole-v1", config, {"gamma": 0.9})

    return make


@pytest.fixture
def record(make_run):
    """`record(step, total, ...)` goes through a training of updates of `step` timesteps; returns what was recorded."""

    def go(step, total, scores=(1.0,), metrics=lambda t: {"loss": float(t)}, **options):
        run, learner, shown = make_run(total_timesteps=total, **options), FakeLearner(scores), Shown()
        recorder = Recorder(run, learner, total, shown)
        while learner.timesteps < total:
            learner.timesteps += step
            if not recorder(learner, metrics(learner.timesteps)):
                break
        recorder.summarize()
        return run, learner, shown, recorder

    return go

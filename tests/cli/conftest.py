"""What the tests of the command line share: a runner, small odd environments, and one trained run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import rltool
from rltool.cli.main import main

os.environ.setdefault("OMP_NUM_THREADS", "1")

ODD_ENVIRONMENTS = '''
import gymnasium as gym
import numpy as np


class Line(gym.Env):
    """Ten steps of random numbers; action 1 is worth 1. It can be told to fail."""

    def __init__(self, fail=None, at=300, render_mode=None):
        self.observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)
        self.action_space = gym.spaces.Discrete(2)
        self.fail, self.at, self.count = fail, at, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        if self.fail == "reset" and self.count >= self.at:
            raise RuntimeError("the floor is lava")
        return self.observe(), {}

    def observe(self):
        return self.np_random.uniform(-1, 1, 2).astype(np.float32)

    def step(self, action):
        self.t += 1
        self.count += 1
        observation, reward = self.observe(), float(np.sum(action))
        if self.count >= self.at:
            if self.fail == "raise":
                raise RuntimeError("motor 3 is on fire")
            if self.fail == "nan":
                observation[0] = np.nan
            if self.fail == "inf-reward":
                reward = float("inf")
        return observation, reward, self.t >= 10, False, {}


class TextObservations(Line):
    def __init__(self, render_mode=None):
        super().__init__()
        self.observation_space = gym.spaces.Dict(a=gym.spaces.Text(3))

    def observe(self):
        return {"a": "abc"}


class GraphObservations(Line):
    def __init__(self, render_mode=None):
        super().__init__()
        self.observation_space = gym.spaces.Graph(gym.spaces.Box(-1, 1, (2,)), None)


def not_a_number(observation, action, reward, next_observation, terminated):
    return float("nan")


def of_one_argument(observation):
    return 1.0


class Painted(Line):
    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}

    def render(self):
        return np.full((32, 48, 3), 20 * self.t, np.uint8)


class ManyActions(Line):
    def __init__(self, render_mode=None):
        super().__init__()
        self.action_space = gym.spaces.Tuple([gym.spaces.Discrete(2)])


for name in ("Line", "Painted", "TextObservations", "GraphObservations", "ManyActions"):
    if f"{name}-v0" not in gym.registry:
        gym.register(f"{name}-v0", f"odd_environments:{name}")
'''


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)

    def sentence(self, code: int) -> str:
        """The one sentence on standard error; asserts that there is nothing else, and no traceback."""
        assert self.code == code, (self.code, self.out, self.err)
        assert "Traceback" not in self.err
        lines = [line for line in self.err.splitlines() if line.startswith("rltool: ")]
        assert len(lines) == 1, self.err
        assert self.err.splitlines()[-1] == lines[0] or code == 1, self.err
        assert "\n\n" not in self.err
        return lines[0].removeprefix("rltool: ")


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    """Every test runs in an empty folder that has a module of odd environments."""
    (tmp_path / "odd_environments.py").write_text(ODD_ENVIRONMENTS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop("odd_environments", None)


@pytest.fixture
def cli(monkeypatch, capsys):
    """`cli("train", "a2c", ...)` runs the command line in this process."""

    def call(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["rltool", *map(str, arguments)])
        capsys.readouterr()
        try:
            main()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        out, err = capsys.readouterr()
        return Outcome(code, out, err)

    return call


def run_command(*arguments: object, **options) -> Outcome:
    """The same in a process of its own."""
    command = [sys.executable, "-c", "from rltool.cli.main import main; main()", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, **options)
    return Outcome(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def command():
    """`command("train", ...)` runs the command line in a process of its own."""
    return run_command


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> Path:
    """A finished run of A2C; copy it before you change it."""
    run = rltool.train(
        "a2c",
        "CartPole-v1",
        preset="none",
        total_timesteps=1_500,
        log_freq=500,
        eval_freq=500,
        save_freq=500,
        eval_episodes=2,
        run_dir=str(tmp_path_factory.mktemp("runs")),
        name="trained",
    )
    return run.path


@pytest.fixture
def copy_of_trained(trained, workplace) -> Path:
    """A run in `runs/mine` that a test may damage."""
    import shutil

    return Path(shutil.copytree(trained, workplace / "runs" / "mine"))

"""Environments in one process and in several: what Gymnasium's `SyncVectorEnv` gives, and what becomes of failures."""

from __future__ import annotations

import copy
import functools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.error import ClosedEnvironmentError
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

from rltool.envs import ParallelVectorEnv, check_vector_env, workers

SPACES: dict[str, gym.Space] = {
    "box": spaces.Box(-1, 1, (2, 3), np.float32),
    "bytes": spaces.Box(0, 255, (3,), np.uint8),
    "discrete": spaces.Discrete(5, start=-2),
    "multi": spaces.Tuple((spaces.MultiDiscrete([3, 4]), spaces.MultiBinary(3))),
    "dict": spaces.Dict({"a": spaces.Box(-1, 1, (1,)), "b": spaces.Dict({"c": spaces.Discrete(3)})}),
    "text": spaces.Dict({"a": spaces.Text(5), "b": spaces.Box(-1, 1, (2,))}),
    "graph": spaces.Graph(spaces.Box(-1, 1, (2,)), None),
    "sequence": spaces.Sequence(spaces.Discrete(4)),
}


class Mixed(gym.Env):
    """Random observations of any space; the reward tells the actions apart; infos come and go and are of all kinds."""

    def __init__(self, observations: str = "box", actions: str = "discrete", length: int = 4) -> None:
        self.observation_space, self.action_space = copy.deepcopy((SPACES[observations], SPACES[actions]))
        self.length, self.t = length, 0
        self.given: list[Any] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.t = 0
        self.options = options
        return self.observation_space.sample(), {"began": True}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.t += 1
        self.given.append(action)
        text = repr(action)
        reward = float(sum(map(ord, text)) % 1000) + self.np_random.random()
        info: dict[str, Any] = {"t": self.t, "x": {"y": np.full(2, self.t), "z": text}}
        if self.t % 2:
            info["odd"] = np.float64(self.t)
        return self.observation_space.sample(), reward, self.t == self.length, self.t == 6, info

    def private(self) -> Any:
        return lambda: self


def pair(mode: AutoresetMode = AutoresetMode.NEXT_STEP, processes: int = 2, **spaces: str) -> list[Any]:
    makers: list[Callable[[], gym.Env]] = [functools.partial(Mixed, **spaces, length=3 + i) for i in range(5)]
    return [SyncVectorEnv(makers, autoreset_mode=mode), ParallelVectorEnv(makers, processes, mode)]


def close(*envs: VectorEnv) -> None:
    for env in envs:
        env.close()


@pytest.mark.parametrize("processes", [1, 2, 3, 9])
@pytest.mark.parametrize("mode", AutoresetMode)
def test_all_is_as_in_sync(mode: AutoresetMode, processes: int) -> None:
    envs = pair(mode, processes)
    sync, env = envs
    assert (env.metadata, env.render_mode, env.num_envs) == (sync.metadata, sync.render_mode, 5)
    assert (env.observation_space, env.action_space) == (sync.observation_space, sync.action_space)
    sync.action_space.seed(0)
    assert data_equivalence(*[each.reset(seed=3) for each in envs], exact=True)
    for _ in range(20):
        actions = sync.action_space.sample()
        step, other = (each.step(actions) for each in envs)
        assert data_equivalence(step, other, exact=True)
        done = step[2] | step[3]
        if mode is AutoresetMode.DISABLED and done.any():
            resets = [each.reset(options={"reset_mask": done.copy(), "x": 1}) for each in envs]
            assert data_equivalence(*resets, exact=True)
    assert env.get_attr("options") == sync.get_attr("options")
    assert data_equivalence(*[each.reset(seed=[4, None, 2, 1, 7]) for each in envs], exact=True)
    assert env.np_random_seed == sync.np_random_seed
    close(*envs)


@pytest.mark.parametrize("observations", SPACES)
@pytest.mark.parametrize("actions", [name for name in SPACES if name not in ("graph", "sequence", "text")])
def test_all_spaces(observations: str, actions: str) -> None:
    envs = pair(AutoresetMode.SAME_STEP, observations=observations, actions=actions)
    envs[0].action_space.seed(0)
    assert data_equivalence(*[each.reset(seed=3) for each in envs], exact=True)
    for _ in range(6):
        batch = envs[0].action_space.sample()
        assert data_equivalence(*[each.step(batch) for each in envs], exact=True)
    close(*envs)


def test_actions_keep_their_type_and_belong_to_the_environment() -> None:
    envs = pair(actions="box")
    for env in envs:
        env.reset(seed=0)
        for dtype in (np.float32, np.float64):
            for value in (0.1, 0.2):
                env.step(np.full((5, 2, 3), value, dtype))
    sync, parallel = (env.get_attr("given") for env in envs)
    for one, other in zip(sync, parallel, strict=True):
        assert [each.dtype for each in other] == [np.float32, np.float32, np.float64, np.float64][: len(other)]
        np.testing.assert_array_equal(np.array(one)[0], np.array(other)[0])
    close(*envs)


def test_conformance() -> None:
    makers = [lambda i=i: gym.wrappers.TimeLimit(gym.make("CartPole-v1"), 9 + i) for i in range(3)]
    check_vector_env(lambda mode: ParallelVectorEnv(makers, 2, mode), max_steps=30)


@pytest.mark.parametrize("processes", [1, 2])
def test_without_infos_final_observations_are_left(processes: int) -> None:
    makers = [functools.partial(Mixed, length=3)] * 2
    env = ParallelVectorEnv(makers, processes, AutoresetMode.SAME_STEP, infos=False)
    with_infos = ParallelVectorEnv(makers, 1, AutoresetMode.SAME_STEP)
    for each in (env, with_infos):
        each.reset(seed=0)
    for t in (1, 2, 3, 4):
        step, full = (each.step(np.zeros(2, int)) for each in (env, with_infos))
        assert data_equivalence(step[:4], full[:4], exact=True)
        assert set(step[4]) == ({"final_obs", "_final_obs"} if t == 3 else set())
        assert all(data_equivalence(step[4][name], full[4][name], exact=True) for name in step[4])
    close(env, with_infos)


def test_calls_and_attributes() -> None:
    env = ParallelVectorEnv([lambda i=i: Mixed(length=i) for i in range(5)], 2)
    assert env.get_attr("length") == (0, 1, 2, 3, 4)
    assert env.call("has_wrapper_attr", "length") == (True,) * 5
    env.set_attr("length", [5, 6, 7, 8, 9])
    assert env.get_attr("length") == (5, 6, 7, 8, 9)
    env.set_attr("length", 3)
    assert env.get_attr("length") == (3,) * 5
    for wrong in (lambda: env.set_attr("length", [1]), lambda: env.reset(seed=[1])):
        with pytest.raises(ValueError, match="for 5 environments"):
            wrong()
    for mask in (np.ones(4, bool), np.ones(5, int)):
        with pytest.raises(ValueError, match="must be boolean"):
            env.reset(options={"reset_mask": mask})
    env.close()


class Unreadable(Exception):
    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


@pytest.mark.parametrize("where", [0, 1])
def test_an_error_is_raised_here_and_all_go_on(where: int) -> None:
    env = ParallelVectorEnv([Mixed, Mixed], 2)
    env.reset(seed=0)
    kinds: list[tuple[Any, Any, str]] = [(ZeroDivisionError, ZeroDivisionError, "1, 2")]
    kinds += [(Unreadable, RuntimeError if where else Unreadable, "1 and 2")]
    for error, kind, text in kinds:
        env.set_attr("step", [functools.partial(raises, error if i == where else None) for i in range(2)])
        with pytest.raises(kind, match=text) as caught:
            env.step(np.zeros(2, int))
        if kind is ZeroDivisionError and where == 1:
            assert "in raises" in caught.value.__notes__[0]
    assert env.get_attr("t") == (0, 0)
    env.reset()
    env.close()


def raises(error: type[BaseException] | None, action: int) -> Any:
    if error is not None:
        raise error(1, 2)
    return SPACES["box"].sample(), 0.0, False, False, {}


def test_what_cannot_be_sent_is_an_error() -> None:
    env = ParallelVectorEnv([Mixed, Mixed], 2)
    with pytest.raises(AttributeError):
        env.get_attr("nothing")
    with pytest.raises(RuntimeError, match=r"(?i)pickle"):
        env.call("private")
    assert env.get_attr("t") == (0, 0)
    env.close()


def test_large_messages_go_both_ways() -> None:
    env = ParallelVectorEnv([Mixed] * 4, 2)
    arrays = [np.full(10**6, i) for i in range(4)]
    env.set_attr("large", arrays)
    np.testing.assert_array_equal(env.get_attr("large"), arrays)
    env.close()


def test_environments_that_do_not_go_together() -> None:
    for makers in ([Mixed, lambda: Mixed("bytes")], [Mixed, Mixed, lambda: Mixed(actions="box")]):
        for processes in (1, 2):
            with pytest.raises(RuntimeError, match="differ in their spaces"):
                ParallelVectorEnv(makers, processes)
    with pytest.raises(KeyError, match="nowhere"):
        ParallelVectorEnv([Mixed, lambda: Mixed("nowhere")], 2)


def test_closing_ends_the_workers() -> None:
    env = ParallelVectorEnv([Mixed] * 3, 3)
    workers = [worker._process for worker in env._workers]
    env.reset(seed=0)
    for _ in range(2):
        env.close()
    assert [worker.exitcode for worker in workers] == [0, 0]
    with pytest.raises(ClosedEnvironmentError):
        env.step(np.zeros(3, int))
    forgotten = ParallelVectorEnv([Mixed] * 2, 2)
    (worker,) = (worker._process for worker in forgotten._workers)
    del forgotten
    assert not worker.is_alive()


def test_a_worker_that_dies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "ALIVE_SECONDS", 0.05)
    env = ParallelVectorEnv([Mixed] * 2, 2)
    env.reset(seed=0)
    os.kill(env._workers[0]._process.pid or 0, signal.SIGKILL)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="ended unasked, with exit code -9"):
            env.step(np.zeros(2, int))
    env.close()


def test_an_interrupted_step_confuses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    env = ParallelVectorEnv([Mixed] * 2, 2)
    env.reset(seed=0)
    with monkeypatch.context() as patch:
        patch.setattr(env.envs[0], "step", functools.partial(raises, KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            env.step(np.zeros(2, int))
    assert env.get_attr("t") == (0, 1)
    env.close()


SCRIPT = """
import os, sys, time
import gymnasium as gym, numpy as np
from rltool.envs import ParallelVectorEnv

env = ParallelVectorEnv([lambda: gym.make(sys.argv[1])] * 2, 2)
env.reset(seed=0)
print(env._workers[0]._process.pid, flush=True)
try:
    while True:
        env.step(np.zeros(2, int))
except KeyboardInterrupt:
    print(*env.call("has_wrapper_attr", "step"), flush=True)
"""


@pytest.mark.skipif(os.name != "posix", reason="signals are sent as POSIX has them")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("env_id", ["CartPole-v1", "FrozenLake-v1"])  # without infos, and with some
def test_no_orphans(env_id: str, how: signal.Signals) -> None:
    command = [sys.executable, "-c", SCRIPT, env_id]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout is not None
    worker = int(process.stdout.readline())
    time.sleep(0.1)
    if how is signal.SIGINT:
        os.killpg(process.pid, how)  # As a terminal sends it: to all.
    else:
        process.send_signal(how)
    out, _ = process.communicate(timeout=30)
    assert out == ("True True\n" if how is signal.SIGINT else "")
    deadline = time.monotonic() + 10
    while is_running(worker) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_running(worker)


def is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{process}/stat")  # One that has ended may wait for init to notice.
    return not status.exists() or status.read_text().rsplit(")", 1)[1].split()[0] != "Z"

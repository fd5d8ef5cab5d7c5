"""What of imitation is left where the dynamics change: the recovered reward, and not the policy."""

from __future__ import annotations

import pytest

import rltool
from rltool.agents.controls import EPISODES
from rltool.agents.evaluation import evaluate
from rltool.agents.recording import RandomAgent, record
from rltool.envs import save_demonstrations

HERE, THERE = "Pendulum-v1", "rltool/PendulumReversed-v1"


@pytest.mark.slow
def test_a_recovered_reward_outlives_the_dynamics_and_a_clone_does_not(tmp_path):
    """All episodes are equally long, so a reward that says nothing teaches nothing: random "demonstrations" show it."""
    options = {"run_dir": str(tmp_path), "seed": 0}
    teacher = rltool.train("ppo", HERE, **options).agent
    random = RandomAgent(teacher.action_space)
    files = {name: str(tmp_path / f"{name}.npz") for name in ("good", "random")}
    save_demonstrations(files["good"], record(teacher, HERE, 10))
    save_demonstrations(files["random"], record(random, HERE, 10))

    def mean_return(agent, env_id):
        return evaluate(agent, env_id, EPISODES, seed=0).mean_return

    # The task is as hard here as there: what is best here, with opposite actions, gets as much there.
    best, worst = mean_return(teacher, HERE), mean_return(random, THERE)

    def score(agent, env_id):
        return (mean_return(agent, env_id) - worst) / (best - worst)

    clone = rltool.train("bc", HERE, demos=files["good"], **options).agent
    assert score(clone, HERE) > 0.95
    assert score(clone, THERE) < 0.0

    def trained_there(demos):
        # The last weights: an evaluation that chose among them would have looked at the true reward.
        last = {"eval_freq": 0, **options}
        imitator = rltool.train("airl", HERE, demos=demos, controls=False, **last)
        return rltool.train("ppo", THERE, preset=HERE, reward=str(imitator.path), **last).agent

    assert score(trained_there(files["good"]), THERE) > 0.9
    assert score(trained_there(files["random"]), THERE) < 0.3

"""One training by `imitation`, for `imitation.py peer`; runs in an environment that has it, and not rltool.

    python benchmarks/peers/adversarial_imitation.py bc|gail|airl ENV DEMOS.npz TIMESTEPS SEED EVALUATION_SEED

Prints one JSON object. Options are those of the package's own CartPole tutorials.
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np
import torch
from imitation.algorithms import bc
from imitation.algorithms.adversarial.airl import AIRL
from imitation.algorithms.adversarial.gail import GAIL
from imitation.data.types import TrajectoryWithRew
from imitation.rewards.reward_nets import BasicRewardNet, BasicShapedRewardNet
from imitation.util.networks import RunningNorm
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

NUM_ENVS = 8
# By method: the reward network, its options and the trainer's, and those of PPO.
ADVERSARIAL = {
    "gail": (
        GAIL,
        BasicRewardNet,
        {"demo_batch_size": 1024, "n_disc_updates_per_round": 8},
        {"learning_rate": 4e-4, "n_epochs": 5},
    ),
    "airl": (
        AIRL,
        BasicShapedRewardNet,
        {"demo_batch_size": 2048, "n_disc_updates_per_round": 16},
        {"learning_rate": 5e-4, "n_epochs": 5, "clip_range": 0.1, "vf_coef": 0.1},
    ),
}


def read(path: str) -> list[TrajectoryWithRew]:
    """Demonstrations of a flat `.npz` file, as the package wants them."""
    with np.load(path) as data:
        ends = np.flatnonzero(data["episode_ends"]) + 1
        trajectories = []
        for number, (start, end) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
            seen = np.concatenate((data["observations"][start:end], data["final_observations"][number : number + 1]))
            rewards = data["rewards"][start:end].astype(float)
            terminal = bool(data["terminated"][end - 1])
            trajectories.append(TrajectoryWithRew(seen, data["actions"][start:end], None, terminal, rewards))
    return trajectories


def main() -> None:
    """Train, evaluate, print."""
    method, env_id, demos, *numbers = sys.argv[1:]
    timesteps, seed, evaluation_seed = map(int, numbers)
    torch.set_num_threads(1)
    env = make_vec_env(env_id, NUM_ENVS, seed=seed)
    trajectories = read(demos)
    start = time.perf_counter()
    if method == "bc":
        cloning = bc.BC(
            observation_space=env.observation_space,
            action_space=env.action_space,
            demonstrations=trajectories,
            rng=np.random.default_rng(seed),
            device="cpu",
        )
        cloning.train(n_epochs=max(1, timesteps // sum(map(len, trajectories))), progress_bar=False)
        policy = cloning.policy
    else:
        trainer, network, options, generator = ADVERSARIAL[method]
        # The trainer refuses a batch larger than all demonstrations.
        options["demo_batch_size"] = min(options["demo_batch_size"], sum(map(len, trajectories)))
        ppo = PPO("MlpPolicy", env, batch_size=64, gamma=0.95, seed=seed, device="cpu", **generator)
        reward = network(env.observation_space, env.action_space, normalize_input_layer=RunningNorm)
        trainer(
            demonstrations=trajectories,
            venv=env,
            gen_algo=ppo,
            reward_net=reward,
            gen_replay_buffer_capacity=512,
            allow_variable_horizon=True,
            **options,
        ).train(timesteps)
        policy = ppo.policy
    seconds = time.perf_counter() - start
    played = make_vec_env(env_id, NUM_ENVS, seed=evaluation_seed)
    mean_return, _ = evaluate_policy(policy, played, n_eval_episodes=100)
    print(json.dumps({"mean_return": float(mean_return), "seconds": round(seconds, 3), "total_timesteps": timesteps}))


if __name__ == "__main__":
    main()

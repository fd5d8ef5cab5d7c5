"""Options tuned per environment; `rltool train` uses them unless told otherwise, class constructors never do.

Results with them, over seeds, are in `docs/benchmarks.md`.
"""

from typing import Any

NORMALIZED = {"normalize_observations": True, "normalize_returns": True}
# Smooth exploration in time; PyTorch's initialization, because the noise is scaled by the features.
GSDE = {"action_std": "gsde", "init": "default"}
# Many environments and many passes: what finds the last steps of a goal that is reached at -1 a timestep.
WIDE_ROLLOUTS = {
    "total_timesteps": 1_000_000,
    "eval_freq": 50_000,
    "eval_episodes": 20,
    "num_envs": 64,
    "num_steps": 128,
    "batch_size": 512,
    "num_epochs": 10,
    "learning_rate": 2e-3,
    "learning_rate_schedule": "linear",
    **NORMALIZED,
}

# Long discounts and an entropy bonus against hovering for fear of a crash.
LANDER = {
    "total_timesteps": 1_000_000,
    "eval_freq": 50_000,
    "eval_episodes": 20,
    "num_envs": 16,
    "num_steps": 256,
    "batch_size": 256,
    "num_epochs": 10,
    "learning_rate": 1e-3,
    "learning_rate_schedule": "linear",
    "gamma": 0.999,
    "gae_lambda": 0.98,
    "ent_coef": 0.01,
    "normalize_returns": True,
}

PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "reinforce": {
        "CartPole-v1": {
            "total_timesteps": 200_000,
            "eval_freq": 50_000,
            "learning_rate": 5e-3,
            "learning_rate_schedule": "linear",
            "normalize_advantages": True,
        },
    },
    "a2c": {
        "CartPole-v1": {
            "total_timesteps": 150_000,
            "eval_freq": 50_000,
            "num_envs": 16,
            "num_steps": 8,
            "learning_rate": 3e-3,
            "learning_rate_schedule": "linear",
            "gae_lambda": 0.95,
            "normalize_advantages": True,
            "activation": "relu",
        },
        "Acrobot-v1": {
            "total_timesteps": 500_000,
            "eval_freq": 25_000,
            "eval_episodes": 20,
            "num_envs": 32,
            "num_steps": 16,
            "learning_rate": 2e-3,
            "learning_rate_schedule": "linear",
            "gae_lambda": 0.95,
            **NORMALIZED,
        },
        "MountainCar-v0": {
            "total_timesteps": 1_000_000,
            "eval_freq": 50_000,
            "eval_episodes": 20,
            "num_envs": 16,
            **NORMALIZED,
        },
        "MountainCarContinuous-v0": {
            "total_timesteps": 100_000,
            "eval_freq": 10_000,
            "num_envs": 4,
            "num_steps": 100,
            "sde_sample_freq": 16,
            **GSDE,
            **NORMALIZED,
        },
        "Pendulum-v1": {
            "total_timesteps": 1_000_000,
            "eval_freq": 50_000,
            "eval_episodes": 20,
            "num_envs": 8,
            "num_steps": 32,
            "learning_rate": 7e-4,
            "learning_rate_schedule": "linear",
            "optimizer": "adam",
            "gamma": 0.95,
            "gae_lambda": 0.9,
            "activation": "relu",
            "action_std": "gsde",
            "log_std_init": -1.0,
            "normalize_returns": True,
        },
        "HalfCheetah-v5": {
            "total_timesteps": 1_000_000,
            "eval_freq": 50_000,
            "eval_episodes": 16,
            "num_envs": 16,
            "num_steps": 8,
            "learning_rate": 1e-3,
            "learning_rate_schedule": "linear",
            "gamma": 0.98,
            "gae_lambda": 0.9,
            "log_std_init": -2.0,
            "init": "default",
            **NORMALIZED,
        },
    },
    "ppo": {
        "CartPole-v1": {
            "total_timesteps": 100_000,
            "eval_freq": 50_000,
            "num_envs": 32,
            "num_steps": 64,
            "batch_size": 256,
            "num_epochs": 3,
            "learning_rate": 5e-3,
            "learning_rate_schedule": "linear",
            "gamma": 0.98,
        },
        "Acrobot-v1": {
            **WIDE_ROLLOUTS,
            "gae_lambda": 0.94,
        },
        "MountainCar-v0": {
            **WIDE_ROLLOUTS,
            "gae_lambda": 0.98,
        },
        "MountainCarContinuous-v0": {
            "total_timesteps": 20_000,
            "eval_freq": 2_000,
            "num_envs": 4,
            "num_steps": 128,
            "batch_size": 64,
            "num_epochs": 10,
            "learning_rate": 1e-3,
            "gamma": 0.999,
            "sde_sample_freq": 16,
            **GSDE,
            **NORMALIZED,
        },
        "Pendulum-v1": {
            "total_timesteps": 100_000,
            "eval_freq": 5_000,
            "eval_episodes": 20,
            "num_envs": 4,
            "num_steps": 256,
            "batch_size": 256,
            "num_epochs": 10,
            "learning_rate": 2e-3,
            "learning_rate_schedule": "linear",
            "gamma": 0.95,
            "gae_lambda": 0.8,
            "clip_range": 0.3,
            "activation": "relu",
            "action_std": "gsde",
            "sde_sample_freq": 4,
            "log_std_init": -1.0,
            "normalize_returns": True,
        },
        "LunarLander-v3": LANDER,
    },
}

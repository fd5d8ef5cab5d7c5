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
# What DQN's authors did to Atari games; rewards are clipped and lives end episodes while learning alone.
ATARI = {
    "total_timesteps": 10_000_000,
    "eval_freq": 500_000,
    "save_freq": 500_000,
    "log_freq": 20_000,
    "env_kwargs": {
        "atari_preprocessing": True,
        "frame_stack": 4,
        "terminal_on_life_loss": True,
        "clip_rewards": True,
    },
    "backbone": "cnn",
    "shared": True,
    "ent_coef": 0.01,
}
# The published settings of rl-baselines3-zoo.
ATARI_A2C = {**ATARI, "num_envs": 16, "num_steps": 5, "vf_coef": 0.25}
ATARI_PPO = {
    **ATARI,
    "num_envs": 8,
    "num_steps": 128,
    "batch_size": 256,
    "num_epochs": 4,
    "learning_rate": 2.5e-4,
    "learning_rate_schedule": "linear",
    "clip_range": 0.1,
    "clip_range_schedule": "linear",
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

# A walker's joints; for PPO.
WALKER = {
    "total_timesteps": 1_000_000,
    "eval_freq": 50_000,
    "eval_episodes": 10,
    "num_envs": 8,
    "num_steps": 128,
    "batch_size": 128,
    "num_epochs": 5,
    "learning_rate": 5e-4,
    "learning_rate_schedule": "linear",
    "hidden_sizes": (128, 128),
    "activation": "relu",
    "log_std_init": -1.0,
    "init": "default",
    **NORMALIZED,
}
# The published settings of tianshou for the same, with A2C.
WALKER_A2C = {
    "total_timesteps": 1_000_000,
    "eval_freq": 50_000,
    "eval_episodes": 10,
    "num_envs": 16,
    "num_steps": 5,
    "learning_rate": 7e-4,
    "learning_rate_schedule": "linear",
    "gae_lambda": 0.95,
    "ent_coef": 0.01,
    "log_std_init": -0.5,
    **NORMALIZED,
}

# For agents whose reward is learned from demonstrations.
IMITATED_PENDULUM = {"total_timesteps": 300_000, "gamma": 0.95, "gae_lambda": 0.9, "log_std_init": -0.5}
IMITATED_LANDER = {"total_timesteps": 500_000, "learning_rate": 1e-3, "num_epochs": 5, "activation": "tanh"}

# An adversary that learns to perturb what another agent sees, whatever the environment.
ADVERSARY = {
    "learning_rate": 1e-3,
    "learning_rate_schedule": "linear",
    "log_std_init": -0.5,
    **NORMALIZED,
}
ADVERSARY_PPO = {**ADVERSARY, "num_envs": 32, "num_steps": 64, "batch_size": 256, "num_epochs": 10}
ADVERSARY_A2C = {**ADVERSARY, "num_envs": 16, "num_steps": 16, "gae_lambda": 0.95}

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
        "rltool.attacks.adversary:rltool/Adversary-v0": ADVERSARY_A2C,
        "ALE/Pong-v5": ATARI_A2C,
        "ALE/Breakout-v5": ATARI_A2C,
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
        "LunarLander-v3": {
            "total_timesteps": 200_000,
            "eval_freq": 5_000,
            "eval_episodes": 20,
            "num_envs": 4,
            "learning_rate": 1.5e-3,
            "learning_rate_schedule": "linear",
            "gamma": 0.995,
            "optimizer": "adam",
            "ent_coef": 0.1,
        },
        "Hopper-v5": WALKER_A2C,
        "Walker2d-v5": WALKER_A2C,
        "Ant-v5": WALKER_A2C,
        "HalfCheetah-v5": {
            "total_timesteps": 1_000_000,
            "eval_freq": 100_000,
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
        "rltool.attacks.adversary:rltool/Adversary-v0": ADVERSARY_PPO,
        "ALE/Pong-v5": ATARI_PPO,
        "ALE/Breakout-v5": ATARI_PPO,
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
        "rltool/Catch-v0": {
            "total_timesteps": 60_000,
            "num_envs": 32,
            "num_steps": 32,
            "batch_size": 256,
            "num_epochs": 3,
            "learning_rate": 1e-3,
            "gamma": 0.95,
            "gae_lambda": 0.9,
            "ent_coef": 0.01,
            "shared": True,
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
        "InvertedPendulum-v5": {"total_timesteps": 100_000},
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
        "BipedalWalker-v3": {
            "total_timesteps": 3_000_000,
            "eval_freq": 150_000,
            "eval_episodes": 10,
            "num_envs": 32,
            "num_steps": 256,
            "batch_size": 128,
            "num_epochs": 10,
            "learning_rate": 3e-4,
            "learning_rate_schedule": "linear",
            "gamma": 0.999,
            "clip_range": 0.18,
            **NORMALIZED,
        },
        "LunarLanderContinuous-v3": LANDER,
        "HalfCheetah-v5": {
            "total_timesteps": 1_000_000,
            "eval_freq": 50_000,
            "eval_episodes": 16,
            "num_envs": 8,
            "num_steps": 128,
            "batch_size": 256,
            "num_epochs": 10,
            "learning_rate": 2e-4,
            "learning_rate_schedule": "linear",
            "gamma": 0.98,
            "gae_lambda": 0.92,
            "max_grad_norm": 0.8,
            "hidden_sizes": (256, 256),
            "activation": "relu",
            "log_std_init": -2.0,
            "init": "default",
            **NORMALIZED,
        },
        "Hopper-v5": WALKER,
        "Walker2d-v5": WALKER,
        "Ant-v5": WALKER,
    },
    "gail": {
        "Pendulum-v1": {**IMITATED_PENDULUM, "demos_reads": "state"},
        "LunarLander-v3": IMITATED_LANDER,
    },
    "airl": {
        "Pendulum-v1": IMITATED_PENDULUM,
        # Engines cost fuel, of which states show nothing.
        "LunarLander-v3": {**IMITATED_LANDER, "demos_reads": "state-action"},
    },
}

# Against adversaries of many kinds: many environments at once.
PERSISTENT = {
    "eval_freq": 100_000,
    "eval_episodes": 20,
    "num_envs": 64,
    "num_steps": 128,
    "batch_size": 1024,
    "num_epochs": 6,
    "gamma": 0.99,
}

# For PPO, where it is hardened: what changes, by the kind of hardening. What it is worth is in `docs/benchmarks.md`.
HARDENED: dict[tuple[str, str], dict[str, dict[str, Any]]] = {
    ("robust", "persistent"): {
        "CartPole-v1": {
            **PERSISTENT,
            "total_timesteps": 2_000_000,
            "learning_rate": 3e-3,
            "epsilon": 0.25,
            "epsilon_unit": "1,1,0.1,0.5",
        },
        "Pendulum-v1": {
            **PERSISTENT,
            "total_timesteps": 4_000_000,
            "learning_rate": 1e-3,
            "gamma": 0.97,
            "gae_lambda": 0.95,
            "ent_coef": 0.05,  # Without it the policy is sure of itself before the attacks are strong.
            "robust_ramp": 0.6,
            "epsilon": 0.15,
            "epsilon_unit": "5,1,1",
        },
        "InvertedPendulum-v5": {
            **PERSISTENT,
            "total_timesteps": 4_000_000,
            "learning_rate": 1e-3,
            "epsilon": 0.06,
        },
        "Hopper-v5": {
            "total_timesteps": 2_000_000,
            "eval_freq": 100_000,
            "num_envs": 64,
            "num_steps": 64,
            "batch_size": 512,
            "epsilon": 0.075,
            "epsilon_unit": "std",
        },
    },
    ("robust", "sa"): {
        "CartPole-v1": {
            "total_timesteps": 200_000,
            "epsilon": 0.1,
            "robust_kappa": 0.3,
            "robust_steps": 3,
        },
    },
}

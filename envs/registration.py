"""rltool's own environments, registered with Gymnasium under `rltool/`."""

from __future__ import annotations

import gymnasium as gym

OWN = {
    "rltool/CartPoleNoVelocity-v1": ("rltool.envs.cartpole:CartPoleNoVelocity", 500),
    "rltool/Catch-v0": ("rltool.envs.catch:Catch", 90),
    "rltool/GridWorld-v0": ("rltool.envs.grid_world:GridWorld", 50),
    "rltool/KeyDoor-v0": ("rltool.envs.key_door:KeyDoor", 200),
    "rltool/PendulumReversed-v1": ("rltool.envs.pendulum:PendulumReversed", 200),
}


def register_own_environments() -> None:
    """Register them, unless they are already; their modules are imported only when one is made."""
    for env_id, (name, max_episode_steps) in OWN.items():
        if env_id not in gym.registry:
            gym.register(
                env_id, f"{name}Env", max_episode_steps=max_episode_steps, vector_entry_point=f"{name}VectorEnv"
            )

"""Pendulum whose motor turns the other way: the same task, with other dynamics."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.envs.classic_control import PendulumEnv
from numpy.typing import NDArray

from rltool.envs.batched import Bools, Floats
from rltool.envs.classic_control import PendulumVectorEnv

OPPOSITE = np.int8(-1)  # Times a float it keeps its type; unsigned integers have no minus of their own.


class PendulumReversedEnv(PendulumEnv):
    """Gymnasium's Pendulum, in which an action is the torque with the opposite sign.

    What is seen and rewarded is the same, and every action does the opposite: a reward of states is as good here as
    there, a policy is not.
    """

    def step(self, action: Any) -> tuple[NDArray[np.float32], Any, bool, bool, dict[str, Any]]:
        """Take a step, as Pendulum takes it with the opposite action."""
        return super().step(OPPOSITE * np.asarray(action))


class PendulumReversedVectorEnv(PendulumVectorEnv):
    """`PendulumReversedEnv`, batched."""

    single_env = PendulumReversedEnv

    def _transition(self, actions: NDArray[Any]) -> tuple[Floats, Bools]:
        return super()._transition(OPPOSITE * actions)

    def _drawn_torque(self, index: int) -> Any:
        return OPPOSITE * super()._drawn_torque(index)

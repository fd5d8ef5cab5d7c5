"""Environments: making them, single or in parallel, batched forms, wrappers, and their complete state."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rltool.lazy import lazy_exports

if TYPE_CHECKING:
    from rltool.envs.cartpole import CartPoleNoVelocityVectorEnv as CartPoleNoVelocityVectorEnv
    from rltool.envs.catch import CatchVectorEnv as CatchVectorEnv
    from rltool.envs.classic_control import (
        AcrobotVectorEnv as AcrobotVectorEnv,
    )
    from rltool.envs.classic_control import (
        MountainCarContinuousVectorEnv as MountainCarContinuousVectorEnv,
    )
    from rltool.envs.classic_control import (
        MountainCarVectorEnv as MountainCarVectorEnv,
    )
    from rltool.envs.classic_control import (
        PendulumVectorEnv as PendulumVectorEnv,
    )
    from rltool.envs.conformance import ConformanceError as ConformanceError
    from rltool.envs.conformance import check_vector_env as check_vector_env
    from rltool.envs.demonstration_files import load_demonstrations as load_demonstrations
    from rltool.envs.demonstration_files import save_demonstrations as save_demonstrations
    from rltool.envs.demonstrations import Demonstrations as Demonstrations
    from rltool.envs.functions import load_function as load_function
    from rltool.envs.grid_world import GridWorldVectorEnv as GridWorldVectorEnv
    from rltool.envs.key_door import KeyDoorVectorEnv as KeyDoorVectorEnv
    from rltool.envs.make import environment_ids as environment_ids
    from rltool.envs.make import make_env as make_env
    from rltool.envs.make import make_vector_env as make_vector_env
    from rltool.envs.make import offers_action_mask as offers_action_mask
    from rltool.envs.parallel import ParallelVectorEnv as ParallelVectorEnv
    from rltool.envs.pendulum import PendulumReversedVectorEnv as PendulumReversedVectorEnv
    from rltool.envs.replay import Replay as Replay
    from rltool.envs.state import get_env_state as get_env_state
    from rltool.envs.state import set_env_state as set_env_state
    from rltool.envs.tabular import Tabular as Tabular
    from rltool.envs.tabular import tabular_model as tabular_model
    from rltool.envs.wrappers import ActionMaskObservation as ActionMaskObservation
    from rltool.envs.wrappers import FunctionShaping as FunctionShaping
    from rltool.envs.wrappers import PotentialShaping as PotentialShaping

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "cartpole": ["CartPoleNoVelocityVectorEnv"],
        "catch": ["CatchVectorEnv"],
        "classic_control": [
            "AcrobotVectorEnv",
            "MountainCarContinuousVectorEnv",
            "MountainCarVectorEnv",
            "PendulumVectorEnv",
        ],
        "conformance": ["ConformanceError", "check_vector_env"],
        "demonstration_files": ["load_demonstrations", "save_demonstrations"],
        "demonstrations": ["Demonstrations"],
        "functions": ["load_function"],
        "grid_world": ["GridWorldVectorEnv"],
        "key_door": ["KeyDoorVectorEnv"],
        "make": ["environment_ids", "make_env", "make_vector_env", "offers_action_mask"],
        "parallel": ["ParallelVectorEnv"],
        "pendulum": ["PendulumReversedVectorEnv"],
        "replay": ["Replay"],
        "state": ["get_env_state", "set_env_state"],
        "tabular": ["Tabular", "tabular_model"],
        "wrappers": ["ActionMaskObservation", "FunctionShaping", "PotentialShaping"],
    },
)

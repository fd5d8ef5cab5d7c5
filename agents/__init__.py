"""Agents: policy, rollout, advantages, and one file per algorithm."""

from typing import TYPE_CHECKING

from rltool.lazy import lazy_exports

if TYPE_CHECKING:
    from rltool.agents.a2c import A2C as A2C
    from rltool.agents.agent import Agent as Agent
    from rltool.agents.airl import AIRL as AIRL
    from rltool.agents.behavior_cloning import BehaviorCloning as BehaviorCloning
    from rltool.agents.cloning_config import BCConfig as BCConfig
    from rltool.agents.cloning_config import DAggerConfig as DAggerConfig
    from rltool.agents.config import A2CConfig as A2CConfig
    from rltool.agents.config import PPOConfig as PPOConfig
    from rltool.agents.config import REINFORCEConfig as REINFORCEConfig
    from rltool.agents.dagger import DAgger as DAgger
    from rltool.agents.gail import GAIL as GAIL
    from rltool.agents.maxent_config import MaxEntIRLConfig as MaxEntIRLConfig
    from rltool.agents.maxent_irl import MaxEntIRL as MaxEntIRL
    from rltool.agents.on_policy import OnPolicyAgent as OnPolicyAgent
    from rltool.agents.policy import Policy as Policy
    from rltool.agents.ppo import PPO as PPO
    from rltool.agents.reinforce import REINFORCE as REINFORCE
    from rltool.agents.reward_model import RewardModel as RewardModel
    from rltool.agents.sb3 import SB3Agent as SB3Agent
    from rltool.agents.sb3 import load_sb3 as load_sb3

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "a2c": ["A2C"],
        "agent": ["Agent"],
        "airl": ["AIRL"],
        "gail": ["GAIL"],
        "behavior_cloning": ["BehaviorCloning"],
        "cloning_config": ["BCConfig", "DAggerConfig"],
        "config": ["A2CConfig", "PPOConfig", "REINFORCEConfig"],
        "dagger": ["DAgger"],
        "maxent_config": ["MaxEntIRLConfig"],
        "maxent_irl": ["MaxEntIRL"],
        "on_policy": ["OnPolicyAgent"],
        "policy": ["Policy"],
        "ppo": ["PPO"],
        "reinforce": ["REINFORCE"],
        "reward_model": ["RewardModel"],
        "sb3": ["SB3Agent", "load_sb3"],
    },
)

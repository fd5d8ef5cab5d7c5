"""Adversarial inverse reinforcement learning (Fu et al., 2018), with PPO as the generator."""

from rltool.agents.imitation_config import AIRLConfig
from rltool.agents.ppo import PPO


class AIRL(PPO):
    """PPO on a reward of states that is recovered from demonstrations beside a potential (see `adversarial.py`).

    Any other agent does the same with the options `demos=` and `demos_objective="airl"`.

    Example:
        >>> agent = AIRL("CartPole-v1", demos="cartpole-v0")  # doctest: +SKIP
        >>> agent.learn(500_000)  # doctest: +SKIP
    """

    method = "airl"
    config_class = AIRLConfig

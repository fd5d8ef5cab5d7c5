"""Generative adversarial imitation learning (Lecture 12; Ho & Ermon, 2016), with PPO as the generator."""

from rltool.agents.imitation_config import GAILConfig
from rltool.agents.ppo import PPO


class GAIL(PPO):
    """PPO on the reward of a discriminator that tells demonstrations from its own steps (see `adversarial.py`).

    Any other agent does the same with the options `demos=` and `demos_objective="gail"`.

    Example:
        >>> agent = GAIL("CartPole-v1", demos="cartpole-v0")  # doctest: +SKIP
        >>> agent.learn(200_000)  # doctest: +SKIP
    """

    method = "gail"
    config_class = GAILConfig

"""The agents as methods of `rltool train`."""

from rltool.agents.config import A2CConfig, PPOConfig, REINFORCEConfig
from rltool.agents.presets import PRESETS
from rltool.training.methods import Method

reinforce = Method(REINFORCEConfig, "rltool.agents.reinforce:REINFORCE", presets=PRESETS["reinforce"])
a2c = Method(A2CConfig, "rltool.agents.a2c:A2C", presets=PRESETS["a2c"])
ppo = Method(PPOConfig, "rltool.agents.ppo:PPO", presets=PRESETS["ppo"])

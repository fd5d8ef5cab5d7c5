"""The agents as methods of `rltool train`."""

from rltool.agents.cloning_config import BCConfig, CloningRunConfig, DAggerConfig, DAggerRunConfig
from rltool.agents.config import A2CConfig, PPOConfig, REINFORCEConfig
from rltool.agents.extensions import with_extensions
from rltool.agents.imitation_config import AIRLConfig, GAILConfig
from rltool.agents.maxent_config import IterationsConfig, MaxEntIRLConfig
from rltool.agents.presets import HARDENED, PRESETS
from rltool.training.methods import Method

reinforce = Method(with_extensions(REINFORCEConfig), "rltool.agents.reinforce:REINFORCE", presets=PRESETS["reinforce"])
a2c = Method(with_extensions(A2CConfig), "rltool.agents.a2c:A2C", presets=PRESETS["a2c"])
ppo = Method(with_extensions(PPOConfig), "rltool.agents.ppo:PPO", presets=PRESETS["ppo"], variants=HARDENED)
gail = Method(GAILConfig, "rltool.agents.gail:GAIL", presets=PRESETS["gail"])
airl = Method(AIRLConfig, "rltool.agents.airl:AIRL", presets=PRESETS["airl"])
bc = Method(BCConfig, "rltool.agents.behavior_cloning:BehaviorCloning", run=CloningRunConfig)
dagger = Method(DAggerConfig, "rltool.agents.dagger:DAgger", run=DAggerRunConfig)
maxent_irl = Method(MaxEntIRLConfig, "rltool.agents.maxent_irl:MaxEntIRL", run=IterationsConfig)

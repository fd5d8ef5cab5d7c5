"""rltool: train agents in Gymnasium environments, from the command line or from Python, on one library of networks."""

from typing import TYPE_CHECKING

from rltool.lazy import lazy_exports

if TYPE_CHECKING:
    from rltool.agents.diagnosis import diagnose as diagnose
    from rltool.agents.evaluation import Evaluation as Evaluation
    from rltool.agents.evaluation import evaluate as evaluate
    from rltool.agents.loading import load_agent as load_agent
    from rltool.envs.make import make_env as make_env
    from rltool.envs.make import make_vector_env as make_vector_env
    from rltool.errors import TrainingError as TrainingError
    from rltool.errors import UserError as UserError
    from rltool.training.reproduce import reproduce as reproduce
    from rltool.training.run import Run as Run
    from rltool.training.run import load as load
    from rltool.training.train import resume as resume
    from rltool.training.train import train as train

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "agents.diagnosis": ["diagnose"],
        "agents.evaluation": ["Evaluation", "evaluate"],
        "agents.loading": ["load_agent"],
        "envs.make": ["make_env", "make_vector_env"],
        "errors": ["TrainingError", "UserError"],
        "training.reproduce": ["reproduce"],
        "training.run": ["Run", "load"],
        "training.train": ["resume", "train"],
    },
)

"""The classifier that attacks, defenses and adaptation start from."""

from typing import TYPE_CHECKING

from rltool.lazy import lazy_exports

if TYPE_CHECKING:
    from rltool.supervised.classifier import Classifier as Classifier
    from rltool.supervised.config import ClassifierConfig as ClassifierConfig
    from rltool.supervised.learner import ClassifierLearner as ClassifierLearner

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {"classifier": ["Classifier"], "config": ["ClassifierConfig"], "learner": ["ClassifierLearner"]},
)

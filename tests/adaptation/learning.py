"""Learners that these tests share."""

from rltool.training.methods import METHODS

MOONS, SEVERAL = "moons:moons@40deg", "moons+moons@20deg:moons@40deg"
METHOD_NAMES = [entry.name for entry in METHODS if str(entry.target).startswith("rltool.adaptation")]
NEED_SEVERAL = ("irm", "vrex", "group-dro")
SMALL = {"hidden_sizes": (16,), "ema": 0.9}


def build(method, data=None, seed=0, **options):
    known = METHODS[method].load()
    learner = known.learner_class()(
        data or (SEVERAL if method in NEED_SEVERAL else MOONS), known.config(**{**SMALL, **options}), seed=seed
    )
    learner.prepare()
    return learner

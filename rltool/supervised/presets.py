"""Options tuned for data sets; `rltool train` uses them unless told otherwise, class constructors never do.

Chosen by five-fold cross-validation within the training part; `docs/classifiers.md` has the numbers.
"""

from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    "digits": {
        "backbone": "cnn",
        "total_timesteps": 60_000,
        "augment": ("shift",),
        "optimizer": "sgd",
        "learning_rate": 0.05,
        "weight_decay": 1e-3,
    },
}

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

# What changes where an option is given: attacked examples are hard enough without being moved.
ATTACKED: dict[str, Any] = {
    "eval_freq": 10_000,
    "augment": (),
    "optimizer": "adam",
    "learning_rate": 3e-3,
    "batch_size": 128,
    "label_smoothing": 0.1,
    "robust_ramp": 0.3,
    "total_timesteps": 480_000,
}
HARDENED: dict[tuple[str, str], dict[str, dict[str, Any]]] = {
    ("robust", "pgd"): {"digits": {**ATTACKED, "weight_decay": 5e-4}},
    ("robust", "trades"): {"digits": {**ATTACKED, "weight_decay": 1e-3, "robust_beta": 4.0}},
}

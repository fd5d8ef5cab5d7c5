"""Options tuned for sequence data; `rltool train` uses them unless told otherwise, class constructors never do."""

from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    # A generator that is too small for the oracle: one as large as it learns little from a discriminator.
    "oracle": {
        "total_timesteps": 70_000,
        "pretraining": 45_000,
        "model_size": 8,
        "embedding_size": 16,
        "learning_rate": 3e-3,
        "discriminator_pretraining": 250,
        "discriminator_learning_rate": 5e-3,
    },
}

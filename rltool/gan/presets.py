"""Options tuned for data sets, by method; `rltool train` uses them unless told otherwise, class constructors never do.

Chosen by short trainings; `docs/generating.md` has the numbers.
"""

from typing import Any

# Noise of as few numbers as the points have, a weak penalty, and large steps that fall to 0: the generator's map is to
# be steep between the modes.
POINTS: dict[str, Any] = {
    "total_timesteps": 5_000,
    "eval_freq": 1_000,
    "noise_size": 2,
    "discriminator_steps": 2,
    "batch_size": 128,
    "penalty_weight": 0.1,
    "learning_rate": 2e-3,
    "schedule": "cosine",
    "beta1": 0.5,
    "ema": 0.999,
}
# Translators that see two pixels each way: they can paint, but not make another digit. A critic has no verdict to win
# by: where a discriminator does, translators stay where they are, held by the cycle loss.
PAINTED: dict[str, Any] = {
    "total_timesteps": 500,
    "eval_freq": 250,
    "loss": "wasserstein",
    "penalty": "gradient",
    "batch_size": 32,
    "translator_channels": (32,),
    "translator_blocks": 0,
    "learning_rate": 2e-4,
    "generator_learning_rate": 2e-3,
    "schedule": "linear",
    "beta2": 0.9,
}
# Dense layers: of images so small, they learn as much as convolutions do, in a tenth of the time.
DIGITS: dict[str, Any] = {
    "total_timesteps": 4_000,
    "eval_freq": 1_000,
    "backbone": "mlp",
    "hidden_sizes": (256, 256),
    "discriminator_steps": 2,
    "learning_rate": 5e-4,
    "schedule": "linear",
    "beta1": 0.5,
    "ema": 0.99,
}
# Told the class and kept smooth by spectral norm, a critic of convolutions needs no penalty, which costs it half its
# time; without the classes, as many steps end at an FID 18 times as large.
ASKED: dict[str, Any] = {
    "total_timesteps": 600,
    "eval_freq": 200,
    "log_freq": 50,
    "backbone": "cnn",
    "generator_batch_norm": True,
    "noise_size": 64,
    "loss": "hinge",
    "spectral_norm": True,
    "discriminator_steps": 2,
    "learning_rate": 5e-4,
    "schedule": "linear",
    "beta1": 0.0,
    "beta2": 0.9,
    "ema": 0.99,
}
PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "cgan": {
        "digits": {
            "total_timesteps": 2_000,
            "eval_freq": 500,
            "backbone": "mlp",
            "hidden_sizes": (256, 256),
            "learning_rate": 5e-4,
            "schedule": "linear",
            "ema": 0.99,
        },
        "mnist": ASKED,
        "fashion-mnist": ASKED,
    },
    "cyclegan": {"digits:digits~inverted": PAINTED, "digits:digits~recoloured": PAINTED},
    "wgan-gp": {
        "digits": DIGITS,
        "ring8": POINTS,
        "grid25": {**POINTS, "total_timesteps": 20_000, "eval_freq": 2_000, "hidden_sizes": (128, 128, 128)},
    },
}

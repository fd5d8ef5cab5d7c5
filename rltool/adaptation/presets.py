"""Options tuned for pairs of domains, by method; `rltool train` uses them unless told otherwise.

Chosen by the target's accuracy in short experiments, which a user cannot do: `docs/adapting.md` says so.
"""

from typing import Any

Options = dict[str, Any]

# A game between two networks: low momentum, a light weight, and an average of what it goes through.
GAME: Options = {"beta1": 0.5, "ema": 0.99, "select": "last"}
MOONS: Options = {"hidden_sizes": (128, 64), "learning_rate": 4e-3, "schedule": "constant", "total_timesteps": 96_000}
DIGITS: Options = {"backbone": "cnn", "ema": 0.99, "select": "last", "total_timesteps": 30_000}
INVERTED: Options = {**DIGITS, "augment": ("random-conv",)}
MOVED: Options = {**DIGITS, "augment": ("shift",)}
SCANNED: Options = {**DIGITS, "augment": ("affine",), "total_timesteps": 40_000}
SCANNED_GAME: Options = {**SCANNED, "beta1": 0.5, "domain_sizes": (128, 128)}

PRESETS: dict[str, dict[str, Options]] = {
    "dann": {
        "moons:moons@40deg": {**MOONS, **GAME, "weight": 0.2},
        "digits:digits~inverted": {**INVERTED, "weight": 0.2},
        "digits:digits~shifted~noisy": MOVED,
        "usps:mnist": SCANNED_GAME,
        "mnist:usps": {**SCANNED_GAME, "learning_rate": 2e-3, "total_timesteps": 60_000},
    },
    "cdan": {"usps:mnist": SCANNED_GAME},
    "dirt-t": {"moons:moons@40deg": {**MOONS, **GAME, "domain_weight": 0.2, "total_timesteps": 64_000}},
    "entropy": {
        "digits:digits~inverted": INVERTED,
        "digits:digits~shifted~noisy": MOVED,
        "usps:mnist": {**SCANNED, "total_timesteps": 60_000},
        "mnist:usps": {**SCANNED, "learning_rate": 2e-3, "total_timesteps": 64_000},
    },
    "universal": {"digits~0-5:digits~4-9~shifted~noisy": MOVED},
    "erm": {"digits:digits~inverted": INVERTED},
}

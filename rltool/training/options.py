"""Options given, over the preset's, over the defaults. Free of torch, so that a wrong one is found at once."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from rltool.errors import UserError, unknown
from rltool.training.config import RunConfig
from rltool.training.methods import Method
from rltool.validation import validate


def resolve_options(method: Method, data: str, options: Mapping[str, Any]) -> tuple[RunConfig, Any, str]:
    """Options given, over the preset's, over the defaults; as the run's config and the method's.

    Returns:
        The run's config, the method's config, and the name of the preset in use ("none" without one).

    Raises:
        UserError: An option, its value or the preset is wrong.
    """
    preset = options.get("preset", "auto")
    if preset == "auto":
        # A shift of an environment takes nothing of what suits it.
        names = [data, re.split("[~@]", data)[0]] if method.data == "ENV" else [data]
        preset = next((name for name in names if name in method.presets), "none")
    elif preset != "none" and preset not in method.presets:
        raise unknown("preset", preset, ["auto", "none", *method.presets])
    fields = {**RunConfig.model_fields, **method.config.model_fields}
    for name in options:
        if name not in fields:
            raise unknown("option", name, fields)
    if options.get("epochs") is not None and "total_timesteps" in options:
        raise UserError("the budget is given twice; leave out either epochs or total-timesteps")
    tuned = dict(method.presets.get(preset, {}))
    for (name, value), variant in method.variants.items():
        if options.get(name) == value:
            tuned |= variant.get(preset, {})
    # Arguments of the environment add to the preset's: a game still has its frames stacked.
    arguments = options.get("env_kwargs", {})
    if isinstance(arguments, Mapping):
        arguments = {**tuned.get("env_kwargs", {}), **arguments}
    merged = {**tuned, **options, "env_kwargs": arguments, "preset": preset}
    run = validate(method.run, {k: v for k, v in merged.items() if k in RunConfig.model_fields})
    config = validate(method.config, {k: v for k, v in merged.items() if k not in RunConfig.model_fields})
    return run, config, preset

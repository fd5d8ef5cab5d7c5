"""Opening an agent from wherever it was saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rltool.errors import UserError
from rltool.training.checkpoint import load_state
from rltool.training.methods import METHODS
from rltool.training.run import Run, admit_module


def load_agent(path: str | Path, device: str = "cpu", vecnormalize: str | Path | None = None) -> Any:
    """The agent of a run folder, of a file written by `Agent.save`, or of a Stable-Baselines3 `.zip`.

    Args:
        path: A folder, a `.safetensors` file, or a `.zip`.
        device: Where tensors live.
        vecnormalize: For a `.zip`, the file with its observation statistics, if it does not lie beside it.

    Returns:
        An agent: something with `predict`, `observation_space` and `action_space`.

    Raises:
        UserError: There is no such thing, it is damaged, or it holds no agent.
    """
    path = Path(path)
    if path.suffix == ".zip":
        from rltool.agents.sb3 import load_sb3

        return load_sb3(path, vecnormalize, device)
    if path.is_file():
        values = load_state(path).values
        method = values.get("method")
        if method is None:
            raise UserError(f"{path} holds no agent")
        admit_module(str(values.get("env_id")), path.resolve().parent)
        return METHODS[method].load().learner_class().load(path, device=device)
    return Run(path).agent

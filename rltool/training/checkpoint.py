"""State on disk: tensors and JSON values in one safetensors file. Reading one cannot run code."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from rltool.errors import TrainingError, UserError


@dataclass
class State:
    """Everything that must survive: named tensors, and values that JSON can hold."""

    tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)

    def add(self, prefix: str, tensors: Mapping[str, torch.Tensor]) -> None:
        """Put tensors in under `prefix.name`."""
        self.tensors |= {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}

    def take(self, prefix: str) -> dict[str, torch.Tensor]:
        """The tensors that `add` put in under a prefix."""
        return {n.removeprefix(f"{prefix}."): t for n, t in self.tensors.items() if n.startswith(f"{prefix}.")}


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a crash leaves the old one or the new one, never half of either.

    Raises:
        TrainingError: The disk is full or read-only.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise disk_error(path, error) from error


def disk_error(path: Path, error: OSError) -> TrainingError:
    """The sentence for a write that the system refused."""
    reason = {
        errno.ENOSPC: "the disk is full; free some space",
        errno.EDQUOT: "the disk quota is used up; free some space",
        errno.EROFS: "the disk is read-only; choose another --run-dir",
        errno.EACCES: "permission denied; choose another --run-dir",
    }.get(error.errno or 0, error.strerror or str(error))
    return TrainingError(f"cannot write {path}: {reason}")


def save_state(path: Path, state: State) -> None:
    """Write a state to one file, atomically."""
    # Sorted and without times or names: the same state is the same bytes.
    tensors = {name: state.tensors[name].detach().cpu().contiguous() for name in sorted(state.tensors)}
    values = json.dumps(state.values, sort_keys=True)
    write_atomically(path, safetensors.torch.save(tensors, {"rltool": values}))


def load_state(path: Path) -> State:
    """Read a state.

    Raises:
        UserError: The file is missing, half-written or not one of ours.
    """
    if not path.is_file():
        raise UserError(f"there is no file {path}")
    try:
        with safetensors.safe_open(path, "pt") as file:
            values = json.loads((file.metadata() or {})["rltool"])
            if not isinstance(values, dict):
                raise ValueError("its values are no table")
            names = file.keys()  # The file is no dictionary: it cannot be iterated.
            return State({name: file.get_tensor(name) for name in names}, values)
    except (safetensors.SafetensorError, KeyError, ValueError, OSError) as error:
        raise UserError(f"{path} is damaged or was not written by rltool ({error})") from None


def read_values(path: Path) -> dict[str, Any]:
    """The values of a state without its tensors; empty if the file is not one of ours."""
    try:
        with safetensors.safe_open(path, "pt") as file:
            values = json.loads((file.metadata() or {}).get("rltool", "{}"))
    except (safetensors.SafetensorError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}

"""State on disk: tensors and JSON values in one safetensors file. Reading one cannot run code."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from rltool.errors import TrainingError, UserError

FORMAT = 1  # of state files and of config.json; raise it when an older rltool would misread them
# One key only: with several, safetensors writes them in no fixed order. Files from before there were checksums have
# their bare values under LEGACY_KEY; no single flipped byte turns the one key into the other.
KEY, LEGACY_KEY = "rltool_state", "rltool"


class NewerFormatError(UserError):
    """A file is sound, but of a format that this version does not know."""


def check_format(path: Path, number: Any) -> None:
    """Refuse a file whose format number is above ours.

    Raises:
        NewerFormatError: It is.
    """
    if isinstance(number, int) and number > FORMAT:
        raise NewerFormatError(f"{path} was written by a newer rltool (format {number}); upgrade rltool")


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
        _sync_folder(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise disk_error(path, error) from error


def _sync_folder(folder: Path) -> None:
    """Make a renaming survive a power cut; not every system can."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def remove_temporaries(folder: Path) -> None:
    """Remove what `write_atomically` was killed over; only for whoever alone writes there."""
    for file in folder.glob(".*.tmp"):
        file.unlink(missing_ok=True)


def disk_error(path: Path, error: OSError) -> TrainingError:
    """The sentence for a write that the system refused."""
    reason = {
        errno.ENOSPC: "the disk is full; free some space",
        errno.EDQUOT: "the disk quota is used up; free some space",
        errno.EROFS: "the disk is read-only; choose another --run-dir",
        errno.EACCES: "permission denied; choose another --run-dir",
    }.get(error.errno or 0, error.strerror or str(error))
    return TrainingError(f"cannot write {path}: {reason}")


def checksum(state: State, number: int = FORMAT) -> str:
    """SHA-256 of names, kinds, shapes and bytes of the tensors, of the values, and of the format number.

    The definition is the same for all formats, so that a flipped byte is never taken for a newer format.
    """
    digest = hashlib.sha256(json.dumps([number, state.values], sort_keys=True).encode())
    for name in sorted(state.tensors):
        tensor = state.tensors[name]
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        flat = tensor.reshape(-1).as_strided((tensor.numel(),), (1,))  # A single element may have stride 0.
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def save_state(path: Path, state: State) -> None:
    """Write a state and its checksum to one file, atomically."""
    # Sorted and without times or names: the same state is the same bytes.
    tensors = {name: state.tensors[name].detach().cpu().contiguous() for name in sorted(state.tensors)}
    values = json.loads(json.dumps(state.values))  # As they will be read.
    header = {"format": FORMAT, "sha256": checksum(State(tensors, values)), "values": values}
    write_atomically(path, safetensors.torch.save(tensors, {KEY: json.dumps(header, sort_keys=True)}))


def load_state(path: Path) -> State:
    """Read a state, and compare it with its checksum.

    Raises:
        UserError: The file is missing, damaged or not one of ours.
        NewerFormatError: It is of a later version.
    """
    if not path.is_file():
        raise UserError(f"there is no file {path}")
    try:
        with safetensors.safe_open(path, "pt") as file:
            header = _header(file.metadata())
            names = file.keys()  # The file is no dictionary: it cannot be iterated.
            state = State({name: file.get_tensor(name) for name in names}, header["values"])
        if header["sha256"] not in (None, checksum(state, header["format"])):
            raise ValueError("its checksum does not match")
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
        raise UserError(f"{path} is damaged or was not written by rltool ({error})") from None
    check_format(path, header["format"])
    return state


def read_values(path: Path) -> dict[str, Any]:
    """The values of a state, unchecked and without its tensors; empty if the file is not one of ours."""
    try:
        with safetensors.safe_open(path, "pt") as file:
            values: dict[str, Any] = _header(file.metadata())["values"]
    except (safetensors.SafetensorError, KeyError, ValueError):
        return {}
    return values


def _header(metadata: Mapping[str, str] | None) -> dict[str, Any]:
    """Format, checksum (None in files from before there was one) and values."""
    metadata = metadata or {}
    if LEGACY_KEY in metadata:
        header = {"format": 0, "sha256": None, "values": json.loads(metadata[LEGACY_KEY])}
    else:
        header = json.loads(metadata[KEY])
        if not isinstance(header, dict) or not isinstance(header["sha256"], str):
            raise ValueError("its header is no table")
    if not isinstance(header["values"], dict):
        raise ValueError("its values are no table")
    return header

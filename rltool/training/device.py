"""Where tensors live."""

from __future__ import annotations

import torch

from rltool.errors import UserError


def find_device(name: str) -> torch.device:
    """The device of a name, as "cpu" or "cuda".

    Raises:
        UserError: This machine has none of that name.
    """
    if not has_device(name):
        raise UserError(f"no device '{name}' on this machine; take --device cpu")
    return torch.device(name)


def has_device(name: str) -> bool:
    """Whether this machine has a device of this name."""
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError):
        return False
    return True

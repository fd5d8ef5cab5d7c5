"""Where tensors live."""

from __future__ import annotations

import torch

from rltool.errors import UserError


def find_device(name: str) -> torch.device:
    """The device of a name, as "cpu" or "cuda".

    Raises:
        UserError: This machine has none of that name.
    """
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError):
        raise UserError(f"no device '{name}' on this machine; take --device cpu") from None
    return device

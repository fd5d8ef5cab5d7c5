"""Units that epsilon is given in; free of torch."""

from __future__ import annotations

import math

from rltool.errors import UserError


def feature_units(unit: str) -> tuple[float, ...]:
    """The size of one unit in each feature, where they are listed; none for `raw` and `std`, which are names.

    Raises:
        UserError: It is neither of the names, nor a list of numbers of at least 0 that are not all 0.

    Example:
        >>> feature_units("1,1,0.1")
        (1.0, 1.0, 0.1)
    """
    if unit in ("raw", "std"):
        return ()
    try:
        sizes = tuple(float(part) for part in unit.split(","))
    except ValueError:
        sizes = (math.nan,)
    if not all(size >= 0 and math.isfinite(size) for size in sizes) or not any(sizes):
        raise UserError(
            f"the unit of epsilon is raw, std, or a number for each feature with commas, as 1,1,0.1; not {unit!r}"
        )
    return sizes

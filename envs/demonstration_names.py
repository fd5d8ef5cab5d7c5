"""What the names of demonstrations stand for: .npz files, and the Minari datasets of this machine.

Nothing here imports Minari: its datasets are folders, each with a `data/metadata.json`.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any

from rltool.errors import UserError, unknown

# Key of what this toolkit notes about demonstrations: in Minari's metadata, and (as text) among the arrays of an .npz.
NOTES = "rltool"


def is_npz(name: str | Path) -> bool:
    """Whether a name stands for an .npz file, and not for a Minari dataset."""
    return Path(name).suffix == ".npz"


def full_name(name: str | Path) -> str:
    """A file as it is, and a Minari dataset with `-v0` where the version is missing.

    Raises:
        UserError: No dataset can be called so.
    """
    name = str(name)
    if is_npz(name):
        return name
    if not re.fullmatch(r"(?!./[^/]*$)[-\w]+(/[-\w]+)*", name):  # Minari knows no group of one letter.
        raise UserError(
            f"'{name}' names no demonstrations: a file ends in .npz, and a Minari dataset's name has only letters, "
            "digits, - and _ (and / between groups)"
        )
    return name if re.search(r"-v\d+$", name) else f"{name}-v0"


def place_of(name: str | Path) -> Path:
    """The .npz file, or the folder of the Minari dataset, that a name stands for; it need not be there.

    Raises:
        UserError: No dataset can be called so.
    """
    return Path(name) if is_npz(name) else datasets_folder() / full_name(name)


def datasets_folder() -> Path:
    """Where Minari keeps its datasets: MINARI_DATASETS_PATH, or a folder at home."""
    return Path(os.environ.get("MINARI_DATASETS_PATH") or Path.home() / ".minari" / "datasets")


def local_datasets() -> list[str]:
    """Names of the Minari datasets on this machine, sorted."""
    folder = datasets_folder()
    names = (file.parent.parent.relative_to(folder) for file in folder.glob("**/data/metadata.json"))
    return sorted(name.as_posix() for name in names if not any(part.startswith(".") for part in name.parts))


def dataset_metadata(name: str) -> dict[str, Any]:
    """What a Minari dataset says about itself: its episodes are not opened.

    Raises:
        UserError: There is no such dataset here (the message names the nearest), or it cannot be read.
    """
    file = place_of(name) / "data" / "metadata.json"
    if not file.parent.is_dir():
        if names := local_datasets():
            raise unknown("demonstrations", full_name(name), names)
        raise UserError(
            f"no demonstrations '{full_name(name)}', nor any others in {datasets_folder()}; rltool record makes some"
        )
    try:
        metadata = json.loads(file.read_text())
        return {**metadata, NOTES: dict(metadata.get(NOTES) or {})}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"the demonstrations {full_name(name)} cannot be read: {error}") from None


def check_free(name: str | Path, overwrite: bool = False) -> None:
    """Refuse a name that is taken; to be asked before anything is played.

    Raises:
        UserError: The name is taken, or no dataset can be called so.
    """
    place = place_of(name)
    if not place.exists():
        return
    if place.is_dir() and not (place / "data").is_dir():
        raise UserError(f"{place} is a folder of other things; choose another name for the demonstrations")
    if not overwrite:
        raise UserError(f"there are demonstrations {full_name(name)} already; choose another name, or add --overwrite")


def check_writable(name: str | Path) -> None:
    """Refuse a place that nothing can be written to; to be asked before anything is played.

    Raises:
        UserError: Its folder is none, cannot be written to, or cannot be made.
    """
    place = place_of(name)
    folder = place.parent
    try:
        while not folder.exists():  # The missing folders are made when there is something to put there.
            folder = folder.parent
        # Permissions do not tell all: a disk may be read-only, or full. The file has no name, and is gone at once.
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"demonstrations")
    except OSError as error:
        raise UserError(
            f"the demonstrations cannot be written to {place}: {error.strerror or error} ({folder}); choose another "
            "place"
        ) from None

"""What the shell offers on Tab."""

from __future__ import annotations


def complete_environment(incomplete: str) -> list[str]:
    """Environment ids that begin so."""
    from rltool.envs import environment_ids

    return [name for name in environment_ids() if name.startswith(incomplete)]


def complete_run(incomplete: str) -> list[str]:
    """Folders of runs that begin so."""
    from pathlib import Path

    return [str(p.parent) for p in sorted(Path("runs").glob("*/config.json")) if str(p.parent).startswith(incomplete)]


def complete_demonstrations(incomplete: str) -> list[str]:
    """Minari datasets and .npz files that begin so."""
    from pathlib import Path

    from rltool.envs.demonstration_names import local_datasets

    names = [*local_datasets(), *map(str, sorted(Path().glob("*.npz")))]
    return [name for name in names if name.startswith(incomplete)]

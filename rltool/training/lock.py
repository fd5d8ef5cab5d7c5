"""One process at a time trains a run."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rltool.errors import UserError
from rltool.training.checkpoint import disk_error

NAME = ".lock"


@contextmanager
def locked(folder: Path, shown: str) -> Iterator[None]:
    """Hold the lock of a run's folder; the system releases it when the process dies, however it dies.

    The file itself stays: removing it while another process waits for it would give two of them a lock.

    Args:
        folder: The run's folder.
        shown: The folder as a message names it.

    Raises:
        UserError: Another process holds it.
        TrainingError: The folder cannot be written.
    """
    path = folder / NAME
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise disk_error(path, error) from error
    try:
        if not _take(descriptor):
            raise UserError(f"{shown} is being trained by another process; wait until it ends, or stop it first")
        yield
    finally:
        os.close(descriptor)


if sys.platform == "win32":
    import msvcrt

    def _take(descriptor: int) -> bool:
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

else:
    import fcntl

    def _take(descriptor: int) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:  # A file system without locks: better unguarded than not at all.
            return True
        return True

"""A folder for files that no attempt outlives, and the removal of what a killed process left in it."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

from anyio import CancelScope, to_thread


@asynccontextmanager
async def scratch(root: Path) -> AsyncIterator[Path]:
    """A folder of this process alone below ``root``, gone at the end. Folders whose process is gone are removed."""
    folder, lock = await to_thread.run_sync(_open, root)
    try:
        yield folder
    finally:
        os.close(lock)
        with CancelScope(shield=True):
            await remove(folder)


async def remove(folder: Path) -> None:
    await to_thread.run_sync(lambda: shutil.rmtree(folder, ignore_errors=True))


def _open(root: Path) -> tuple[Path, int]:
    root.mkdir(parents=True, exist_ok=True, mode=0o700)
    alone = os.open(root, os.O_RDONLY)
    try:
        fcntl.flock(alone, fcntl.LOCK_EX)  # another that starts now could take our new folder for one that was left
        _sweep(root)
        folder = root / uuid4().hex
        folder.mkdir(mode=0o700)
        lock = _lock(folder)
        assert lock is not None  # whoever could hold it waits for the root
        return folder, lock
    finally:
        os.close(alone)


def _sweep(root: Path) -> None:
    for left in root.iterdir():
        if (lock := _lock(left)) is not None:
            shutil.rmtree(left, ignore_errors=True)
            os.close(lock)


def _lock(folder: Path) -> int | None:
    """An open descriptor that holds the folder until it is closed or its process ends; None: somebody has it."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:  # its process is removing it
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor

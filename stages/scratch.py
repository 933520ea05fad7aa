"""A folder for files that no attempt outlives, the removal of what a killed process left in it, and its room."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

from anyio import CancelScope, Event, to_thread

from pipeline.errors import MediaTooLarge
from pipeline.settings import GIB


class Room:
    """So many bytes of disk, lent to jobs in the order in which they ask: none waits with a part of its share."""

    def __init__(self, size: int) -> None:
        self._size = self._free = size
        self._waiting: deque[tuple[int, Event]] = deque()

    async def borrow(self, count: int) -> None:
        """Wait for ``count`` bytes; cancelled, none were taken. Raises ``MediaTooLarge`` for more than there are."""
        if count > self._size:
            raise MediaTooLarge(
                f"The decoded tracks may take {count / GIB:.1f} GiB of disk; {self._size / GIB:.1f} GiB are there "
                "for that. Send a shorter recording or fewer tracks; who runs the service can raise "
                "AUDIO__SCRATCH_BYTES."
            )
        place = (count, Event())
        self._waiting.append(place)
        self._lend()
        try:
            await place[1].wait()
        except BaseException:
            if place[1].is_set():
                self._free += count
            else:
                self._waiting.remove(place)
            self._lend()
            raise

    def give_back(self, count: int) -> None:
        self._free += count
        self._lend()

    def _lend(self) -> None:
        while self._waiting and self._waiting[0][0] <= self._free:
            count, lent = self._waiting.popleft()
            self._free -= count
            lent.set()


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

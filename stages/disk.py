"""Disk for decoded tracks: how much all jobs may take at once, and who gets it when."""

from __future__ import annotations

from collections import deque
from typing import Final

from anyio import Event, from_thread

from pipeline.errors import Internal, MediaTooLarge
from pipeline.settings import GIB, MIB

STEP: Final = 16 * MIB  # nine minutes of a track


class Disk:
    """So many bytes of disk, lent to jobs in the order in which they ask: none waits with a part of its share."""

    def __init__(self, size: int) -> None:
        self._size = self._free = size
        self._waiting: deque[tuple[int, Event]] = deque()

    async def borrow(self, count: int) -> Loan:
        """Wait for ``count`` bytes; cancelled, none were taken. Raises ``MediaTooLarge`` for more than there are."""
        if count > self._size:
            raise MediaTooLarge(
                f"The decoded tracks may take {count / GIB:.3g} GiB of disk, for which {self._size / GIB:.3g} GiB are "
                "set apart. Send fewer tracks, or a shorter recording; who runs the service can raise "
                "AUDIO__SCRATCH_BYTES."
            )
        lent = Event()
        self._waiting.append((count, lent))
        self._lend()
        try:
            await lent.wait()
        except BaseException:
            if lent.is_set():
                self._free += count
            else:
                self._waiting.remove((count, lent))
            self._lend()
            raise
        return Loan(self, count)

    def take(self, count: int) -> bool:
        """Take what is free now, before those who wait."""
        if count > self._free:
            return False
        self._free -= count
        return True

    def give_back(self, count: int) -> None:
        self._free += count
        self._lend()

    def _lend(self) -> None:
        while self._waiting and self._waiting[0][0] <= self._free:
            count, lent = self._waiting.popleft()
            self._free -= count
            lent.set()


class Loan:
    """The bytes that one job may write."""

    def __init__(self, disk: Disk, size: int) -> None:
        self._disk, self._size, self._left = disk, size, size

    def spend(self, count: int) -> None:
        """Note that so many were written. Called from the decoding thread.

        Raises ``Internal`` where a file is longer than it said and the room for the rest is not free: who holds some
        must not wait for more.
        """
        self._left -= count
        if self._left < 0 and not from_thread.run_sync(self._grow):
            raise Internal(
                "A file is longer than it says it is, and there is no room to decode the rest at the moment.",
                retryable=True,
            )

    def give_back(self) -> None:
        self._disk.give_back(self._size)

    def _grow(self) -> bool:
        count = max(STEP, -self._left)
        if not self._disk.take(count):
            return False
        self._size += count
        self._left += count
        return True

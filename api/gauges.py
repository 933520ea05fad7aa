"""How the queue does, asked now and then in a task of its own, for instruments that are read at any time."""

from __future__ import annotations

from typing import Final

import anyio

from pipeline.jitter import jittered
from pipeline.store import JobQueue, QueueHealth, Unavailable

LOOK_SECONDS: Final = 15.0
"""Prometheus' usual interval. A look takes 0.2 s beside a million waiting jobs: one in a hundred of one connection."""


class QueueGauges:
    """``health`` is what the last look has seen, and ``None`` where that failed: an alarm on a missing number is
    possible, and one on a number that was true once is not."""

    def __init__(self, queue: JobQueue) -> None:
        self._queue = queue
        self.health: QueueHealth | None = None

    async def run(self) -> None:
        """Look, for ever. Every replica does: whichever is asked can tell."""
        while True:
            await self.look()
            await anyio.sleep(jittered(LOOK_SECONDS))

    async def look(self) -> None:
        try:
            self.health = await self._queue.health()
        except Unavailable:  # the heartbeat tells of that
            self.health = None

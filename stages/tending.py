"""What a replica does for the queue as a whole, whoever has its jobs."""

from __future__ import annotations

from contextlib import suppress
from typing import Final

import anyio
import structlog

from pipeline.jitter import jittered
from pipeline.store import JobQueue, Unavailable

log = structlog.get_logger()

TEND_SECONDS: Final = 1.0
"""How late a retry may begin, and a job be taken back from a worker that is gone."""

SWEEP_SECONDS: Final = 30.0
"""Nothing waits for what it erases; a job may be read for so much longer than it was to be kept."""


async def tend(queue: JobQueue) -> None:
    """Take jobs back from silent workers and let retries in, for ever."""
    while True:
        with suppress(Unavailable):  # the heartbeat tells of that
            if rescued := (await queue.tend()).rescued:
                log.warning("leases-rescued", jobs=rescued)
        await anyio.sleep(jittered(TEND_SECONDS))


async def sweep(queue: JobQueue) -> None:
    """Erase what has been kept for long enough, for ever; what it finds to repair is a fault of ours."""
    while True:
        with suppress(Unavailable):
            if repaired := (await queue.sweep()).repaired:
                log.error("turn-repaired", tenants=repaired)
        await anyio.sleep(jittered(SWEEP_SECONDS))

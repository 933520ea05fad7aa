"""A replica at work on jobs of one stage, which a test lets out one by one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
from anyio import current_time

from pipeline.chain import Chain
from pipeline.claim import Claim
from pipeline.jobs import JobRequest, Tenant
from pipeline.observer import Ending, Observer
from pipeline.settings import QueueSettings
from pipeline.stage import Map
from pipeline.store.memory import MemoryJobQueue, MemoryStore
from pipeline.transcript import Transcript
from stages.claimer import Claimer
from stages.committer import Committer
from tests.conformance.store_suite.making import ACME, TRANSCRIPT
from tests.stages.waiting import until

SETTINGS = QueueSettings(
    jobs_in_flight=2, reserved_jobs=1, lease_seconds=60.0, heartbeat_seconds=15.0, poll_seconds=0.05
)


class Gate(Map[JobRequest, Transcript]):
    """Keeps every job until one is let out; each has a file in its scratch folder."""

    def __init__(self) -> None:
        self.entered: list[Claim] = []
        self.exit = anyio.Semaphore(0)

    async def holds(self, jobs: int) -> None:
        """Wait until so many have come in, ever."""
        await until(lambda: len(self.entered) >= jobs)
        await anyio.wait_all_tasks_blocked()

    async def handle(self, claim: Claim, item: JobRequest) -> Transcript:
        await anyio.Path(claim.scratch).mkdir()
        await anyio.Path(claim.scratch / "media-0").write_text("a recording")
        self.entered.append(claim)
        await self.exit.acquire()
        return TRANSCRIPT


class Book(Observer):
    """Attempt, ending and time of every claim that has ended."""

    def __init__(self) -> None:
        self.endings: list[tuple[int, Ending, float]] = []

    def ended(self, claim: Claim, ending: Ending, error: Exception | None) -> None:
        self.endings.append((claim.job.attempt, ending, current_time()))


@asynccontextmanager
async def working(
    queue: MemoryJobQueue, stage: Map[JobRequest, Transcript], root: Path, book: Book | None = None
) -> AsyncIterator[Chain[Transcript]]:
    """A replica at work, which is drained at the end of the block."""
    source, sink = Claimer(queue, SETTINGS, root), Committer(queue, SETTINGS)
    chain = Chain(source, observe=book).then(stage, workers=8).sink(sink)
    async with anyio.create_task_group() as group:
        await group.start(chain.run)
        yield chain
        chain.drain()


async def standing(store: MemoryStore, tenant: Tenant = ACME) -> tuple[int, int]:
    """How many jobs of a tenant wait, and how many run."""
    now = await store.tenant(tenant).standing()
    return now.pending, now.running

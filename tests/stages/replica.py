"""A whole replica without its door, at work on a store in memory, with an engine that fails and hangs on demand."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, Literal

import anyio

from pipeline.jobs import Job
from pipeline.settings import DownloadSettings, QueueSettings, Settings
from pipeline.store.memory import MemoryJobQueue, MemoryStore
from pipeline.transcript import Transcript
from stages import chain
from stages.engines.mock import Fault, MockEngine, Script
from stages.engines.room import ModelRoom
from tests.conformance.store_suite.making import ACME, submit
from tests.pipeline.rig import Ledger
from tests.stages.waiting import until

KINDS: Final[tuple[Literal["window", "hang", "lost"], ...]] = ("window", "hang", "lost")
FAULTS: Final = tuple(Fault(mark=kind, kind=kind) for kind in KINDS)


class Service:
    """A replica with a store of its own, in which every job has one attempt."""

    def __init__(
        self,
        data_dir: Path,
        *,
        jobs_in_flight: int = 4,
        engine: MockEngine | None = None,
        queue: type[MemoryJobQueue] = MemoryJobQueue,
    ) -> None:
        self.settings = Settings(
            data_dir=data_dir,
            queue=QueueSettings(jobs_in_flight=jobs_in_flight),
            download=DownloadSettings.model_validate({"allow_networks": "127.0.0.0/8", "allow_ports": ""}),
        )
        self.store = MemoryStore(settings=QueueSettings(max_attempts=1))
        self.ledger = Ledger()
        engine = engine or MockEngine(Script(faults=FAULTS))
        jobs = jobs_in_flight + self.settings.queue.reserved_jobs
        self.room = ModelRoom(engine, memory_limit=2**20, jobs=jobs, tracks_per_job=2)
        self.chain = chain(queue(self.store), self.room, self.settings, self.ledger)

    @asynccontextmanager
    async def at_work(self) -> AsyncIterator[None]:
        """Drained at the end of the block, and over after it."""
        async with anyio.create_task_group() as group:
            await group.start(self.chain.run)
            yield
            self.chain.drain()

    async def do(self, *requests: dict[str, Any]) -> list[Job]:
        """The jobs that these requests came to, all submitted at once."""
        jobs = [await submit(self.store, **request) for request in requests]
        async with self.at_work():
            await until(lambda: len(self.ledger.endings) == len(jobs))
        return [await self.now(job) for job in jobs]

    async def now(self, job: Job) -> Job:
        return await self.store.tenant(ACME).get(job.id)

    async def transcript(self, job: Job) -> Transcript:
        transcript = await self.store.tenant(ACME).transcript(job.id)
        assert transcript is not None
        return transcript

    def hands(self) -> dict[str, int]:
        """How many are at work in each stage."""
        return {step.stage: step.active for step in self.chain.statistics()}

    def left(self) -> list[Path]:
        return [*(self.settings.data_dir / "scratch").iterdir()]

"""The two ways of doing the same jobs: one after another, and through the chain."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import cycle, islice
from time import perf_counter, process_time
from typing import Final

import anyio

from api.service import new_room
from bench import Unmeasured
from bench.watched import Watched
from pipeline.claim import Claim
from pipeline.jobs import Job, JobRequest, JobStatus, Tenant
from pipeline.observer import Ending, Observer
from pipeline.settings import Settings
from pipeline.store import Store
from stages import chain
from stages.engines import Engine
from stages.scratch import remove

TENANT: Final = Tenant("bench")


@dataclass(frozen=True, slots=True)
class Work:
    """What to do jobs with, where their recordings are, and whose they are, in turn."""

    settings: Settings
    engine: Engine
    store: Store
    urls: Sequence[str]
    tenants: Sequence[Tenant] = (TENANT,)

    async def submit(self, jobs: int) -> list[Job]:
        doors = cycle([self.store.tenant(tenant) for tenant in self.tenants])
        urls = islice(cycle(self.urls), jobs)
        return [await door.submit(JobRequest(media_url=url)) for door, url in zip(doors, urls, strict=False)]


@dataclass(frozen=True, slots=True)
class Side:
    """What it took, in seconds. From ``since`` to ``until`` the engine had a backlog (``perf_counter``)."""

    jobs: int
    wall: float
    cpu: float
    engine: Watched
    since: float
    until: float

    @property
    def wall_a_job(self) -> float:
        return self.wall / self.jobs

    @property
    def cpu_a_job(self) -> float:
        return self.cpu / self.jobs

    @property
    def busy(self) -> float:
        return self.engine.busy(self.since, self.until)

    @property
    def rate(self) -> float:
        """Windows a second."""
        return self.engine.rate(self.since, self.until)


async def one_after_another(work: Work, jobs: int) -> Side:
    """Each job as ``antiphon transcribe --once`` does it: nothing beside anything else."""
    submitted, engine = await work.submit(jobs), Watched(work.engine)
    began, cpu = perf_counter(), process_time()
    for _ in submitted:
        await _once(work, engine)
    wall, cpu = perf_counter() - began, process_time() - cpu
    ended = [await work.store.tenant(job.tenant).get(job.id) for job in submitted]
    insist([job for job in ended if job.status is not JobStatus.COMPLETED])
    return Side(jobs, wall, cpu, engine, began, began + wall)


async def _once(work: Work, engine: Engine) -> None:
    queue = work.store.queue()
    claim = await queue.claim(replica="bench", lease_seconds=work.settings.download.total_seconds)
    assert claim is not None  # submitted above
    claim.scratch = work.settings.data_dir / f"once-{claim.job.id}"
    claim.resources.push_async_callback(remove, claim.scratch)
    room = new_room(engine, work.settings)
    await chain(queue, room, work.settings, Observer()).once(claim, claim.job.request)


async def through_the_chain(work: Work, jobs: int) -> Side:
    await work.submit(jobs)
    return await emptied(work, jobs)


async def emptied(work: Work, jobs: int) -> Side:
    """The chain as the service runs it, from a queue of so many jobs to an empty one.

    The backlog begins with the first batch that is as full as they get, and ends when the last job has been begun:
    filling and emptying the chain are no fault of the engine's feeding.
    """
    engine, count = Watched(work.engine), Count(jobs)
    line = chain(work.store.queue(), new_room(engine, work.settings), work.settings, count)
    began, cpu = perf_counter(), process_time()
    async with anyio.create_task_group() as group:
        group.start_soon(line.run)
        await count.all_ended.wait()
        wall, cpu = perf_counter() - began, process_time() - cpu
        line.drain()
    insist(count.failed)
    return Side(jobs, wall, cpu, engine, engine.filled(count.last_begun), count.last_begun)


class Count(Observer):
    """Waits for the ends of so many jobs. ``last_begun``: when the newest of them began to be fetched."""

    def __init__(self, jobs: int) -> None:
        self._left = jobs
        self.failed: list[Job] = []
        self.last_begun = 0.0
        self.all_ended = anyio.Event()

    def attending(self, stage: str, claim: Claim) -> AbstractContextManager[None]:  # noqa: ARG002 (an Observer's)
        if stage == "downloader":
            self.last_begun = perf_counter()
        return nullcontext()

    def ended(self, claim: Claim, ending: Ending, error: Exception | None) -> None:  # noqa: ARG002 (an Observer's)
        if ending is not Ending.RESULT:
            self.failed.append(claim.job)
        self._left -= 1
        if not self._left:
            self.all_ended.set()


def insist(failed: Sequence[Job]) -> None:
    if failed:
        raise Unmeasured(f"{len(failed)} jobs did not complete, the first on {failed[0].request.media_url}.")

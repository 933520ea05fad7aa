"""The source of the chain: takes jobs from the queue, as many as may be open here, and keeps their leases."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import anyio
from anyio import CancelScope, current_time, move_on_after

from pipeline.claim import Claim
from pipeline.jobs import JobRequest
from pipeline.settings import QueueSettings
from pipeline.stage import Source
from pipeline.store import JobQueue
from stages.heartbeat import Heartbeat
from stages.scratch import remove, scratch
from stages.tending import sweep, tend


class Claimer(Source[JobRequest]):
    """Holds the credit: a claim is a lease and not a thing to hoard. ``scratch_root`` is where files may be kept.

    Beyond ``jobs_in_flight`` a few jobs are taken of tenants that have none open here. One that has lost a worker
    begins once all others have ended, and is alone until it has gone further than that worker can have.
    """

    def __init__(self, queue: JobQueue, settings: QueueSettings, scratch_root: Path) -> None:
        self._queue, self._settings, self._scratch_root = queue, settings, scratch_root
        self._replica = f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:6]}"
        self._open: set[Claim] = set()
        self._alone_from = 0.0  # when a job that has lost a worker may be asked for first
        self._freed = anyio.Event()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        self._heartbeat = Heartbeat(self._queue, self._settings)
        async with scratch(self._scratch_root) as self._scratch, anyio.create_task_group() as group:
            group.start_soon(self._heartbeat.beat, name="heartbeat")
            group.start_soon(self._heartbeat.expire, name="leases")
            group.start_soon(self._heartbeat.report, name="progress")
            group.start_soon(tend, self._queue, name="tending")
            group.start_soon(sweep, self._queue, name="sweep")
            yield
            group.cancel_scope.cancel()

    async def claims(self) -> AsyncIterator[tuple[Claim, JobRequest]]:
        while True:
            self._freed = anyio.Event()  # before the queue is asked, lest a job that ends meanwhile go unnoticed
            if not self._has_credit():
                with move_on_after(self._settings.poll_seconds):  # nobody tells of engine seconds
                    await self._freed.wait()
            elif claim := await self._next():
                claim.scratch = self._scratch / f"{claim.job.id}-{claim.token}"  # a job given back may be here twice
                claim.resources.callback(self._free, claim)
                claim.resources.push_async_callback(remove, claim.scratch)
                self._heartbeat.watch(claim)
                self._open.add(claim)
                yield claim, claim.job.request
            else:
                await _first(self._freed.wait, self._work)

    async def admit(self, claim: Claim) -> None:
        """Hold back a job that has lost a worker until nothing is left here that could be lost with it."""
        if not claim.job.losses:
            return
        while len(self._open) > 1:
            self._freed = anyio.Event()
            await self._freed.wait()
        await self._queue.begin(claim)

    def _has_credit(self) -> bool:
        most = self._settings.jobs_in_flight + self._settings.reserved_jobs
        return len(self._open) < most and not any(map(self._is_alone, self._open))

    def _is_alone(self, claim: Claim) -> bool:
        """What kills its worker does so before its next checkpoint; with that behind it, it endangers nobody."""
        return claim.job.losses > 0 and claim.engine_seconds < self._settings.checkpoint_seconds

    async def _next(self) -> Claim | None:
        """Turn about: a poll goes by from one job that has lost a worker to the next, and is for all others."""
        if current_time() >= self._alone_from:
            self._pass_over()
            return await self._claim_alone() or await self._claim()
        return await self._claim() or (None if self._open else await self._claim_alone())

    async def _claim_alone(self) -> Claim | None:
        lease, idle = self._settings.lease_seconds, not self._open
        return await self._queue.claim_alone(replica=self._replica, lease_seconds=lease, idle=idle)

    async def _claim(self) -> Claim | None:
        full = len(self._open) >= self._settings.jobs_in_flight
        besides = {claim.job.tenant for claim in self._open} if full else ()
        lease = self._settings.lease_seconds
        return await self._queue.claim(replica=self._replica, lease_seconds=lease, besides=besides)

    async def _work(self) -> None:
        await self._queue.work(poll_seconds=self._settings.poll_seconds)

    def _pass_over(self) -> None:
        self._alone_from = current_time() + self._settings.poll_seconds

    def _free(self, claim: Claim) -> None:
        self._open.discard(claim)
        if claim.job.losses:
            self._pass_over()
        self._freed.set()


async def _first(*waits: Callable[[], Awaitable[object]]) -> None:
    """Wait until one of them returns."""

    async def wait(one: Callable[[], Awaitable[object]], scope: CancelScope) -> None:
        await one()
        scope.cancel()

    async with anyio.create_task_group() as group:
        for one in waits:
            group.start_soon(wait, one, group.cancel_scope)

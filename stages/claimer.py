"""The source of the chain: takes jobs from the queue, as many as may be open here, and keeps their leases."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import anyio

from pipeline.claim import Claim
from pipeline.jobs import JobRequest
from pipeline.settings import QueueSettings
from pipeline.stage import Source
from pipeline.store import JobQueue
from stages.heartbeat import Heartbeat
from stages.scratch import remove, scratch


class Claimer(Source[JobRequest]):
    """Holds the credit: a claim is a lease and not a thing to hoard. ``scratch_root`` is where files may be kept."""

    def __init__(self, queue: JobQueue, settings: QueueSettings, scratch_root: Path) -> None:
        self._queue, self._settings, self._scratch_root = queue, settings, scratch_root
        self._replica = f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:6]}"
        self._open: set[Claim] = set()
        self._freed = anyio.Event()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        self._heartbeat = Heartbeat(self._queue, self._settings)
        async with scratch(self._scratch_root) as self._scratch, anyio.create_task_group() as group:
            group.start_soon(self._heartbeat.beat, name="heartbeat")
            group.start_soon(self._heartbeat.expire, name="leases")
            group.start_soon(self._heartbeat.report, name="progress")
            yield
            group.cancel_scope.cancel()

    async def claims(self) -> AsyncIterator[tuple[Claim, JobRequest]]:
        await self._queue.rescue()
        while True:
            while len(self._open) >= self._settings.jobs_in_flight:
                self._freed = anyio.Event()
                await self._freed.wait()
            if claim := await self._queue.claim(replica=self._replica, lease_seconds=self._settings.lease_seconds):
                claim.scratch = self._scratch / f"{claim.job.id}-{claim.job.attempt}"
                claim.resources.callback(self._free, claim)
                claim.resources.push_async_callback(remove, claim.scratch)
                self._heartbeat.watch(claim)
                self._open.add(claim)
                yield claim, claim.job.request
            else:
                await self._queue.work(poll_seconds=self._settings.poll_seconds)

    def _free(self, claim: Claim) -> None:
        self._open.discard(claim)
        self._freed.set()

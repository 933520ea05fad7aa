"""All that the memory store holds, and how a job leaves it: ended, with what hangs on that, or erased."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import anyio

from pipeline.jobs import JobStatus, Tenant
from pipeline.settings import QueueSettings
from pipeline.store.memory.rows import DeliveryRow, File, JobRow, KeyRow, UsageRow
from pipeline.store.memory.turns import Turns
from pipeline.store.rules import Secrets, event


class Bell:
    """Wakes who waits. Rung while nobody waits, it wakes the next to come."""

    def __init__(self) -> None:
        self._rung = anyio.Event()

    def ring(self) -> None:
        self._rung.set()

    async def wait(self) -> None:
        await self._rung.wait()
        self._rung = anyio.Event()


class Tables:
    """``now`` tells seconds that only go forward. ``rows`` are in the order of their coming."""

    def __init__(self, settings: QueueSettings, now: Callable[[], float]) -> None:
        self.settings, self.now = settings, now
        self.rows: dict[UUID, JobRow] = {}
        self.files: dict[UUID, File] = {}
        self.keys: dict[tuple[Tenant, str], KeyRow] = {}
        self.usage: dict[UUID, UsageRow] = {}
        self.deliveries: dict[UUID, DeliveryRow] = {}
        self.turns = Turns(self.rows, settings.max_running)
        self.work, self.cancels = Bell(), Bell()

    def wake(self, *tenants: Tenant) -> None:
        if tenants:
            self.turns.wake(*tenants)
            self.work.ring()

    def end(self, row: JobRow, status: JobStatus, **changes: Any) -> None:
        """The job's end, with its usage and the event for its webhook; ``changes`` are the job's."""
        self.forget(row.job.uploads)
        ended_at, url = datetime.now(UTC), row.callback_url
        row.job = replace(row.job, status=status, completed_at=ended_at, next_attempt_at=None, uploads=(), **changes)
        row.secrets, row.callback_url, row.checkpoints = Secrets(), None, {}
        row.expires_at = self.now() + self._retention(row)
        self._count(row)
        if url is not None:
            body = event(row.job.id, status, row.job.request.external_id, ended_at)
            delivery = DeliveryRow(uuid4(), row.job.tenant, row.job.id, url, body, self.now(), self.now())
            self.deliveries[delivery.id] = delivery

    def erase(self, row: JobRow) -> None:
        """The job and all that hangs on it; its usage stays, and is written now if it had not ended."""
        if not row.job.status.ended:
            self._count(replace(row, job=replace(row.job, status=JobStatus.CANCELLED)))
        self.forget(row.job.uploads)
        del self.rows[row.job.id]

    def disown(self, job: UUID) -> None:
        """What outlives a job that is gone after its time, and not one that was to be gone: its keys, and its news."""
        for key in [key for key, made in self.keys.items() if made.job == job]:
            del self.keys[key]
        for delivery in [row.id for row in self.deliveries.values() if row.job == job]:
            del self.deliveries[delivery]

    def forget(self, uploads: Collection[UUID]) -> None:
        for upload in uploads:
            self.files.pop(upload, None)

    def _retention(self, row: JobRow) -> float:
        asked, usual = row.job.request.retention_seconds, self.settings.retention_seconds
        seconds = usual if asked is None else asked
        return math.inf if seconds is None else seconds

    def _count(self, row: JobRow) -> None:
        job, attempts = row.job, list(row.attempts.values())
        took = attempts[-1].ended_at - attempts[-1].claimed_at if attempts else 0.0
        self.usage[job.id] = UsageRow(
            job=job.id,
            tenant=job.tenant,
            attempt=job.attempt,
            outcome=job.status,
            mode=job.request.processing_mode,
            model=row.transcript.engine.model if row.transcript else None,
            usage=job.usage,
            processing_seconds=job.usage.processing_seconds if job.usage else took,
            engine_seconds=sum(attempt.engine_seconds for attempt in attempts),
        )

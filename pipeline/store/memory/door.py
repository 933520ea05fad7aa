"""The door's face in memory: one tenant, which sees nothing of the others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from uuid import UUID, uuid4

from anyio.lowlevel import checkpoint

from pipeline.errors import IdempotencyMismatch, JobFinished, JobGone, NotFound, QuotaExceeded
from pipeline.jobs import Job, JobRequest, JobStatus, Tenant
from pipeline.store import IdempotencyKey, KeyUsed, Listing, Standing
from pipeline.store.memory import uploads as files
from pipeline.store.memory.ends import break_up
from pipeline.store.memory.health import pace
from pipeline.store.memory.rows import File, JobRow, KeyRow
from pipeline.store.memory.tables import Tables
from pipeline.store.rules import divide
from pipeline.transcript import Transcript


class MemoryTenantJobs:
    def __init__(self, tables: Tables, tenant: Tenant) -> None:
        self._tables, self._tenant = tables, tenant

    def upload(self) -> AbstractAsyncContextManager[files.MemoryUpload]:
        return files.receive(self._tables, self._tenant)

    async def submit(
        self,
        request: JobRequest,
        *,
        uploads: Sequence[UUID] = (),
        trace: Mapping[str, str] | None = None,
        key: IdempotencyKey | None = None,
    ) -> Job:
        await checkpoint()
        if key and (self._tenant, key.key) in self._tables.keys:
            raise KeyUsed
        self._check_quota()
        taken = {upload: file for upload in uploads if (file := self._loose(upload)) and file.received}
        if len(taken) != len(uploads):
            raise NotFound("One of the uploads is not there; upload the file again.")
        job = self._insert(request, tuple(uploads), dict(trace or {}))
        for file in taken.values():
            file.job = job.id
        if key:
            self._tables.keys[self._tenant, key.key] = KeyRow(key.digest, job.id, self._tables.now())
        self._tables.wake(self._tenant)
        return job

    async def made_with(self, key: IdempotencyKey) -> Job | None:
        await checkpoint()
        made = self._tables.keys.get((self._tenant, key.key))
        if made is None:
            return None
        if made.digest != key.digest:
            raise IdempotencyMismatch(f"The Idempotency-Key {key.key!r} came with another request; use a new key.")
        if made.job not in self._tables.rows:
            raise JobGone(f"The job of Idempotency-Key {key.key!r} was kept for its time and is gone; use a new key.")
        return self._tables.rows[made.job].first

    async def discard(self, uploads: Sequence[UUID]) -> None:
        await checkpoint()
        self._tables.forget([upload for upload in uploads if self._loose(upload)])

    async def get(self, job_id: UUID) -> Job:
        await checkpoint()
        return self._row(job_id).shown

    async def transcript(self, job_id: UUID) -> Transcript | None:
        await checkpoint()
        return self._row(job_id).transcript

    async def list(self, listing: Listing) -> Sequence[Job]:
        await checkpoint()
        found = [row.shown for row in self._rows() if _matches(row.job, listing)]
        return sorted(found, key=lambda job: (job.created_at, job.id), reverse=True)[: listing.limit]

    async def cancel(self, job_id: UUID) -> Job:
        await checkpoint()
        row = self._row(job_id)
        if row.job.status in (JobStatus.COMPLETED, JobStatus.FAILED):
            raise JobFinished(f"The job {job_id} has {row.job.status} already; only its deletion is left.")
        if row.job.status is JobStatus.PENDING:
            self._tables.end(row, JobStatus.CANCELLED)
        elif row.lease:
            row.cancel_requested = True
            self._tables.cancels.ring()
        return row.shown

    async def delete(self, job_id: UUID) -> None:
        await checkpoint()
        row = self._row(job_id)
        if lease := row.lease:
            break_up(self._tables, row, lease)
        self._tables.erase(row)
        if lease:
            self._tables.wake(self._tenant)
            self._tables.cancels.ring()
        self._tables.disown(job_id)

    async def standing(self) -> Standing:
        await checkpoint()
        tables, ready = self._tables, [row.ready_at for row in self._rows() if row.claimable]
        pending = sum(row.job.status is JobStatus.PENDING for row in self._rows())
        running = tables.turns.running(self._tenant)
        if not ready:
            return Standing(pending, running)
        ahead, a_second = tables.turns.ahead(self._tenant), pace(tables)
        starts_in = (ahead + 1) / a_second if ahead is not None and a_second else None
        return Standing(pending, running, tables.now() - min(ready), ahead, starts_in)

    def _insert(self, request: JobRequest, uploads: tuple[UUID, ...], trace: Mapping[str, str]) -> Job:
        shown, secrets = divide(request)
        job = Job(
            id=uuid4(),
            tenant=self._tenant,
            request=shown,
            created_at=datetime.now(UTC),
            uploads=uploads,
            max_attempts=self._tables.settings.max_attempts,
        )
        self._tables.rows[job.id] = JobRow(job, job, secrets, request.callback_url, trace, self._tables.now())
        return job

    def _check_quota(self) -> None:
        place = self._tables.turns.places.get(self._tenant)
        own = place.terms.max_pending if place else None
        limit = self._tables.settings.max_pending if own is None else own
        if limit is not None and sum(row.job.status is JobStatus.PENDING for row in self._rows()) >= limit:
            raise QuotaExceeded(f"{limit} jobs wait already, as many as may; submit again when some have begun.")

    def _rows(self) -> Iterator[JobRow]:
        return (row for row in self._tables.rows.values() if row.job.tenant == self._tenant)

    def _row(self, job_id: UUID) -> JobRow:
        row = self._tables.rows.get(job_id)
        if row is None or row.job.tenant != self._tenant:
            raise NotFound(f"There is no job {job_id}.")
        return row

    def _loose(self, upload: UUID) -> File | None:
        """This tenant's upload, if no job has it yet."""
        file = self._tables.files.get(upload)
        return file if file and file.tenant == self._tenant and file.job is None else None


def _matches(job: Job, listing: Listing) -> bool:
    return (
        (listing.after is None or (job.created_at, job.id) < (listing.after.created_at, listing.after.id))
        and listing.status in (None, job.status)
        and listing.external_id in (None, job.request.external_id)
        and (listing.created_after is None or job.created_at > listing.created_after)
        and (listing.created_before is None or job.created_at < listing.created_before)
    )

"""The door's face on PostgreSQL: one tenant, under row-level security."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from uuid import UUID, uuid4

from asyncpg import Record

from pipeline.errors import IdempotencyMismatch, JobFinished, JobGone, NotFound, QuotaExceeded
from pipeline.jobs import PRIORITIES, Job, JobRequest, JobStatus, Progress, Tenant
from pipeline.settings import QueueSettings
from pipeline.store import IdempotencyKey, KeyUsed, Listing, Standing
from pipeline.store.postgres import uploads as files
from pipeline.store.postgres.database import Connection, Database, door
from pipeline.store.postgres.notices import Notices
from pipeline.store.postgres.queries import SQL
from pipeline.store.postgres.rows import TRACE, job_of, read, show
from pipeline.store.rules import divide
from pipeline.transcript import Transcript


class PostgresTenantJobs:
    def __init__(self, database: Database, notices: Notices, tenant: Tenant, settings: QueueSettings) -> None:
        self._database, self._notices, self._tenant, self._settings = database, notices, tenant, settings
        self._role = door(tenant)

    def upload(self) -> AbstractAsyncContextManager[files.PostgresUpload]:
        return files.receive(self._database, self._tenant)

    async def submit(
        self,
        request: JobRequest,
        *,
        uploads: Sequence[UUID] = (),
        trace: Mapping[str, str] | None = None,
        key: IdempotencyKey | None = None,
    ) -> Job:
        job_id = uuid4()  # random: an id tells nothing of when, or after how many others, a job came
        values = self._columns(request, uploads, trace or {})

        async def insert(connection: Connection) -> Record:
            row = await connection.fetchrow(SQL["submit"], job_id, self._tenant, *values)
            assert row is not None
            if key and not await connection.fetchval(SQL["use_key"], self._tenant, key.key, key.digest, job_id):
                raise KeyUsed
            if row["full"] or (row["near"] and await self._is_over(connection, row["most"])):
                raise QuotaExceeded(
                    f"{row['most']} jobs wait already, as many as may; submit again when some have begun."
                )
            await self._take(connection, uploads, job_id)
            await connection.execute(SQL["wake_own"])
            return row

        row = await self._database.unit(self._role, insert)
        self._notices.ring()
        return job_of(row)

    async def made_with(self, key: IdempotencyKey) -> Job | None:
        row = await self._database.unit(self._role, lambda c: c.fetchrow(SQL["made_with"], self._tenant, key.key))
        if row is None:
            return None
        if row["digest"] != key.digest:
            raise IdempotencyMismatch(f"The Idempotency-Key {key.key!r} came with another request; use a new key.")
        if row["id"] is None:
            raise JobGone(f"The job of Idempotency-Key {key.key!r} was kept for its time and is gone; use a new key.")
        return Job(
            id=row["id"],
            tenant=self._tenant,
            request=show(JobRequest, row["request"]),
            created_at=row["created_at"],
            uploads=tuple(row["uploads"]),
            max_attempts=row["max_attempts"],
        )

    async def discard(self, uploads: Sequence[UUID]) -> None:
        await files.discard(self._database, self._tenant, list(uploads))

    async def get(self, job_id: UUID) -> Job:
        return job_of(await self._one("get", job_id))

    async def transcript(self, job_id: UUID) -> Transcript | None:
        document = (await self._one("transcript", job_id))["transcript"]
        return None if document is None else read(Transcript, document)

    async def list(self, listing: Listing) -> Sequence[Job]:
        after = (listing.after.created_at, listing.after.id) if listing.after else (None, None)
        between = (listing.created_after, listing.created_before)
        values = (listing.limit, *after, *between, listing.status, listing.external_id)

        async def page(connection: Connection) -> Sequence[Record]:
            await connection.execute(SQL["in_order"])
            return await connection.fetch(SQL["list"], self._tenant, *values)

        return [job_of(row) for row in await self._database.unit(self._role, page)]

    async def cancel(self, job_id: UUID) -> Job:
        async def cancel(connection: Connection) -> tuple[str | None, Record | None]:
            before = await connection.fetchval(SQL["cancel_own"], job_id)
            return before, await connection.fetchrow(SQL["get"], job_id, self._tenant)

        before, row = await self._database.unit(self._role, cancel)
        if row is None:
            raise _nothing(job_id)
        if before in (JobStatus.COMPLETED, JobStatus.FAILED):
            raise JobFinished(f"The job {job_id} has {before} already; only its deletion is left.")
        if before == JobStatus.RUNNING:
            self._notices.ring_cancel()
        return job_of(row)

    async def delete(self, job_id: UUID) -> None:
        before = "claimed"
        while before == "claimed":
            before = await self._database.unit(self._role, lambda c: c.fetchval(SQL["delete_own"], job_id))
        if before is None:
            raise _nothing(job_id)
        if before == JobStatus.RUNNING:
            self._notices.ring_cancel()
            self._notices.ring()

    async def standing(self) -> Standing:
        row = await self._database.unit(self._role, lambda c: c.fetchrow(SQL["standing"], self._tenant))
        assert row is not None
        return Standing(**dict(row))

    def _columns(self, request: JobRequest, uploads: Sequence[UUID], trace: Mapping[str, str]) -> Sequence[object]:
        shown, secrets = divide(request)
        settings = self._settings
        return (
            shown.model_dump_json(),
            secrets.model_dump_json(),
            TRACE.dump_json(dict(trace)).decode(),
            list(uploads),
            PRIORITIES[request.priority],
            settings.max_attempts,
            Progress().model_dump_json(),
            request.callback_url,
            request.external_id,
            settings.retention_seconds if request.retention_seconds is None else request.retention_seconds,
            settings.max_pending,
        )

    async def _is_over(self, connection: Connection, most: int) -> bool:
        """Near their limit a tenant's submits go one after the other: at once, none would count the others."""
        await connection.execute(SQL["count_alone"], self._tenant)
        return bool(await connection.fetchval(SQL["waiting"], self._tenant) > most)

    async def _take(self, connection: Connection, uploads: Sequence[UUID], job_id: UUID) -> None:
        if not uploads:
            return
        taken = await connection.fetch(SQL["take_uploads"], list(uploads), self._tenant, job_id)
        if len(taken) != len(uploads):
            raise NotFound("One of the uploads is not there; upload the file again.")

    async def _one(self, name: str, job_id: UUID) -> Record:
        row = await self._database.unit(self._role, lambda c: c.fetchrow(SQL[name], job_id, self._tenant))
        if row is None:
            raise _nothing(job_id)
        return row


def _nothing(job_id: UUID) -> NotFound:
    return NotFound(f"There is no job {job_id}.")

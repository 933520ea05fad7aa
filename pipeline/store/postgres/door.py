"""The door's face on PostgreSQL: one tenant, under row-level security."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from uuid import UUID, uuid4

from asyncpg import Record

from pipeline.errors import NotFound
from pipeline.jobs import PRIORITIES, Job, JobRequest, Progress, Tenant
from pipeline.store.postgres import uploads as files
from pipeline.store.postgres.database import Connection, Database, door
from pipeline.store.postgres.notices import Notices
from pipeline.store.postgres.queries import SQL
from pipeline.store.postgres.rows import TRACE, job_of, read
from pipeline.store.rules import divide
from pipeline.transcript import Transcript


class PostgresTenantJobs:
    def __init__(self, database: Database, notices: Notices, tenant: Tenant, *, max_attempts: int) -> None:
        self._database, self._notices, self._tenant = database, notices, tenant
        self._max_attempts = max_attempts

    def upload(self) -> AbstractAsyncContextManager[files.PostgresUpload]:
        return files.receive(self._database, self._tenant)

    async def submit(
        self, request: JobRequest, *, uploads: Sequence[UUID] = (), trace: Mapping[str, str] | None = None
    ) -> Job:
        job_id = uuid4()  # random: an id tells nothing of when, or after how many others, a job came
        shown, secrets = divide(request)
        values = (
            shown.model_dump_json(),
            secrets.model_dump_json(),
            TRACE.dump_json(dict(trace or {})).decode(),
            list(uploads),
            PRIORITIES[request.priority],
            self._max_attempts,
            Progress().model_dump_json(),
        )

        async def insert(connection: Connection) -> Record | None:
            row = await connection.fetchrow(SQL["submit"], job_id, self._tenant, *values)
            taken = await connection.fetch(SQL["take_uploads"], list(uploads), self._tenant, job_id) if uploads else []
            if len(taken) != len(uploads):
                raise NotFound("One of the uploads is not there; upload the file again.")
            await connection.execute(SQL["wake"], [self._tenant])
            return row

        row = await self._database.unit(door(self._tenant), insert)
        assert row is not None
        self._notices.ring()
        return job_of(row)

    async def discard(self, uploads: Sequence[UUID]) -> None:
        await files.discard(self._database, self._tenant, list(uploads))

    async def get(self, job_id: UUID) -> Job:
        return job_of(await self._one("get", job_id))

    async def transcript(self, job_id: UUID) -> Transcript | None:
        document = (await self._one("transcript", job_id))["transcript"]
        return None if document is None else read(Transcript, document)

    async def _one(self, name: str, job_id: UUID) -> Record:
        row = await self._database.unit(door(self._tenant), lambda c: c.fetchrow(SQL[name], job_id, self._tenant))
        if row is None:
            raise NotFound(f"There is no job {job_id}.")
        return row

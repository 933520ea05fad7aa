"""What fairness is measured against: the same jobs in a table of their own, first come, first served."""

from __future__ import annotations

from typing import Final
from uuid import UUID, uuid4

import asyncpg

from pipeline.jobs import Job
from pipeline.store.postgres.database import CHAIN, Database
from pipeline.store.postgres.rows import job_of

# The rows as they are, and the one index that this claim wants.
TABLE: Final = """
    CREATE TABLE public.plain_jobs (LIKE antiphon.jobs INCLUDING DEFAULTS INCLUDING STORAGE) WITH (fillfactor = 70);
    INSERT INTO public.plain_jobs SELECT * FROM antiphon.jobs;
    ALTER TABLE public.plain_jobs ADD PRIMARY KEY (id);
    CREATE INDEX plain_turn ON public.plain_jobs (created_at, seq) WHERE status = 'pending';
    CREATE TABLE public.plain_leases (
        job_id uuid PRIMARY KEY, token uuid NOT NULL, replica text NOT NULL, lease_until timestamptz NOT NULL);
    GRANT SELECT, INSERT, UPDATE, DELETE ON public.plain_jobs, public.plain_leases TO antiphon_chain"""
DROP: Final = "DROP TABLE IF EXISTS public.plain_jobs, public.plain_leases"

CLAIM: Final = """
    WITH next AS MATERIALIZED (
        SELECT id FROM public.plain_jobs
        WHERE status = 'pending' ORDER BY created_at, seq LIMIT 1 FOR UPDATE SKIP LOCKED
    ), job AS (
        UPDATE public.plain_jobs AS job SET status = 'running', attempt = attempt + 1, started_at = now()
        FROM next WHERE job.id = next.id
        RETURNING job.*
    ), lease AS (
        INSERT INTO public.plain_leases SELECT id, $1, $2, now() + make_interval(secs => $3) FROM job
    )
    SELECT * FROM job"""
SETTLE: Final = """
    WITH lease AS (DELETE FROM public.plain_leases WHERE job_id = $1 RETURNING job_id)
    UPDATE public.plain_jobs SET status = 'completed', completed_at = now() FROM lease WHERE id = job_id"""


async def make(admin: asyncpg.Connection[asyncpg.Record]) -> None:
    """A copy of the jobs that wait now."""
    await admin.execute(DROP)
    await admin.execute(TABLE)
    await admin.execute("VACUUM ANALYZE public.plain_jobs")


class PlainQueue:
    """In all but the choice of the job as our own."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def claim(self, *, replica: str, lease_seconds: float) -> Job | None:
        row = await self._database.unit(
            CHAIN, lambda c: c.fetchrow(CLAIM, uuid4(), replica, lease_seconds), durable=False
        )
        return None if row is None else job_of(row)

    async def finish(self, job_id: UUID) -> None:
        await self._database.unit(CHAIN, lambda c: c.execute(SETTLE, job_id))

"""A queue in which very many jobs of many tenants wait, made inside the database."""

from __future__ import annotations

from typing import Final

import asyncpg

from pipeline.jobs import JobRequest, Progress, Tenant
from pipeline.store.rules import divide

CROWDED: Final = Tenant("tenant-00000")  # has half of all jobs, and came first

REQUEST: Final = JobRequest(media_url="https://media.example/recording.flac")

# One may have them all.
JOBS: Final = """
    INSERT INTO antiphon.jobs (id, tenant_id, request, secrets, priority, max_attempts, progress)
    SELECT gen_random_uuid(),
        'tenant-' || lpad(CASE WHEN n <= $1 / 2 OR $2 = 1 THEN 0 ELSE 1 + n % ($2 - 1) END::text, 5, '0'),
        $3, $4, 0, 3, $5
    FROM generate_series(1, $1::integer) AS n"""
# All are in the turn, as they are after a while: a little apart, and less than a job of the usual ten seconds.
TENANTS: Final = """
    INSERT INTO antiphon.tenants (tenant_id, ready, cost)
    SELECT tenant_id, true, 10 * (row_number() OVER (ORDER BY tenant_id)) / $1::float8
    FROM antiphon.jobs WHERE tenant_id LIKE 'tenant-%' GROUP BY tenant_id"""

EMPTY: Final = "TRUNCATE antiphon.jobs, antiphon.tenants, antiphon.charges, antiphon.usage, antiphon.deliveries CASCADE"


async def empty(admin: asyncpg.Connection[asyncpg.Record]) -> None:
    await admin.execute(EMPTY)


async def fill(admin: asyncpg.Connection[asyncpg.Record], *, jobs: int, tenants: int) -> None:
    """``admin``: a superuser, who is bound by no policy. There must be none of these tenants yet."""
    shown, secrets = divide(REQUEST)
    documents = [part.model_dump_json() for part in (shown, secrets, Progress())]
    async with admin.transaction():
        await admin.execute(JOBS, jobs, tenants, *documents)
        await admin.execute(TENANTS, tenants)
    await admin.execute("VACUUM ANALYZE antiphon.jobs, antiphon.tenants")

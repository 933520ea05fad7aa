"""Heartbeats have a connection of their own."""

from __future__ import annotations

import anyio
import asyncpg
import pytest
from anyio.lowlevel import checkpoint

from pipeline.store.postgres import PostgresStore
from tests.conformance.store_suite.making import ACME, LEASE, claim, submit

pytestmark = pytest.mark.postgres

WAITING = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


async def test_leases_are_renewed_though_every_connection_of_the_pool_waits(
    dsn: str, admin: asyncpg.Connection[asyncpg.Record]
) -> None:
    async with PostgresStore(dsn, pool_size=1) as store, anyio.create_task_group() as group:
        job = await submit(store)
        taken = await claim(store)
        async with admin.transaction():
            await admin.execute("LOCK TABLE antiphon.transcripts")
            group.start_soon(store.tenant(ACME).transcript, job.id)
            with anyio.fail_after(5):
                while not await admin.fetchval(WAITING):
                    await checkpoint()
            answer = await store.queue().renew([taken], lease_seconds=LEASE)
        assert answer.kept == {taken.token}

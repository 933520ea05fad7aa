"""What several replicas do for all at once: none waits for what another has in hand."""

from __future__ import annotations

from functools import partial
from typing import TypeAlias

import anyio
import asyncpg
import pytest

from pipeline.store.postgres import PostgresStore
from pipeline.store.postgres.database import Database
from pipeline.store.postgres.uploads import erase
from tests.conformance.store_suite.making import LEASE, claim, submit
from tests.postgres.foreign import Belongings
from tests.postgres.paused import paused

pytestmark = pytest.mark.postgres

Admin: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

# By table, what makes its rows old enough to go.
AGED = {
    "jobs": "status = 'cancelled', completed_at = now(), expires_at = now(), secrets = NULL, uploads = '{}'",
    "idempotency_keys": "created_at = now() - interval '1 year'",
    "deliveries": "url = NULL, next_try_at = NULL, created_at = now() - interval '1 year'",
    "uploads": "job_id = NULL, touched_at = now() - interval '1 year'",
}


async def test_a_report_passes_over_leases_that_the_heartbeat_has_in_hand(store: PostgresStore, dsn: str) -> None:
    await submit(store)
    taken = await claim(store)
    async with paused(dsn) as first, anyio.create_task_group() as tasks:
        tasks.start_soon(partial(first.queue().renew, [taken], lease_seconds=LEASE))
        await first.reached.wait()
        await store.queue().report([taken])
        first.go.set()


@pytest.mark.parametrize("table", AGED)
async def test_what_is_in_other_hands_is_left_to_a_later_sweep(
    store: PostgresStore, dsn: str, admin: Admin, table: str
) -> None:
    await Belongings("acme").put(admin)
    await admin.execute(f"UPDATE antiphon.{table} SET {AGED[table]}")
    database = Database(dsn, pool_size=1, pooled=False)
    await database.open()
    count = f"SELECT count(*) FROM antiphon.{table}"

    async def sweep() -> None:
        await store.queue().sweep()
        await erase(database)

    async with admin.transaction():
        before = len(await admin.fetch(f"SELECT FROM antiphon.{table} FOR UPDATE"))
        await sweep()
        assert await admin.fetchval(count) == before > 0
    await sweep()
    assert await admin.fetchval(count) == 0
    await database.close()

"""What is being kept of a job in the very moment in which it ends goes with it."""

from __future__ import annotations

import anyio
import asyncpg
import pytest

from pipeline.store.postgres import PostgresStore
from pipeline.store.postgres.queries import SQL
from tests.conformance.store_suite.making import ENDS, SETTLERS, Settle, claim, submit

pytestmark = pytest.mark.postgres

WAITING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND usename = 'service'"


@pytest.mark.parametrize("settle", [SETTLERS[name] for name in ENDS], ids=ENDS)
async def test_checkpoints_that_are_written_while_their_job_ends_are_erased_with_it(
    store: PostgresStore, admin: asyncpg.Connection[asyncpg.Record], settle: Settle
) -> None:
    await submit(store)
    taken = await claim(store)
    async with anyio.create_task_group() as group, admin.transaction():  # as ``keep`` does it, stopped half way
        assert await admin.fetchval(SQL["hold"], taken.job.id, taken.token)
        await admin.execute(SQL["keep"], taken.job.id, taken.job.tenant, [bytes(16)], ["{}"])
        group.start_soon(settle, store.queue(), taken)
        with anyio.fail_after(30):
            while not await admin.fetchval(WAITING):  # noqa: ASYNC110  # the event is the server's
                await anyio.sleep(0.01)
    assert await admin.fetchval("SELECT count(*) FROM antiphon.checkpoints") == 0

"""A process that is stopped in the middle of a transaction does not keep its jobs."""

from __future__ import annotations

import anyio
import asyncpg
import pytest

from pipeline.store import Unavailable
from pipeline.store.postgres import PostgresStore
from pipeline.store.postgres.database import using
from pipeline.store.postgres.queries import SQL
from tests.conformance.store_suite.making import claim, submit

pytestmark = pytest.mark.postgres


async def test_a_lease_that_is_locked_by_a_process_held_still_is_taken_back_all_the_same(
    store: PostgresStore, admin: asyncpg.Connection[asyncpg.Record], dsn: str
) -> None:
    await submit(store)
    taken = await claim(store)
    await admin.execute("UPDATE antiphon.leases SET lease_until = now()")
    frozen = await asyncpg.connect(dsn)
    try:
        await frozen.execute("BEGIN")
        await frozen.fetch(SQL["enter"], "antiphon_chain", "", "on")
        assert await frozen.fetchval(SQL["hold"], taken.job.id, taken.token)
        assert (await store.queue().tend()).rescued == 0
        with anyio.fail_after(30):
            while not (await store.queue().tend()).rescued:  # noqa: ASYNC110  # the event is the server's
                await anyio.sleep(0.05)
        with pytest.raises(Unavailable), using(frozen):  # and the process, once it goes on, is told
            await frozen.execute("COMMIT")
    finally:
        frozen.terminate()

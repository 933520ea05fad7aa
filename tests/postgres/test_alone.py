"""Two replicas at work that ask for a job to run alone at the same moment."""

from __future__ import annotations

import asyncpg
import pytest

from pipeline.claim import Claim
from pipeline.store import JobQueue
from pipeline.store.postgres import PostgresStore
from pipeline.store.rules import ALONE_SECONDS
from tests.conformance.store_suite.making import ACME, GLOBEX, LEASE, PassTime, claim, submit
from tests.postgres.paused import meet, paused

pytestmark = pytest.mark.postgres


async def at_work(queue: JobQueue) -> Claim | None:
    return await queue.claim_alone(replica="one", lease_seconds=LEASE, idle=False)


async def test_one_of_them_empties_itself_and_the_other_goes_on(
    store: PostgresStore, dsn: str, admin: asyncpg.Connection[asyncpg.Record], pass_time: PassTime
) -> None:
    for tenant in (ACME, GLOBEX):  # each claim locks its tenant
        await submit(store, tenant)
        await claim(store)
    await store.queue().void_leases()
    await pass_time(ALONE_SECONDS)
    async with paused(dsn) as first:
        both = await meet(admin, first, lambda: at_work(first.queue()), lambda: at_work(store.queue()))

    assert [call.error for call in both] == [None, None]
    assert [call.result is not None for call in both] == [True, False]

"""Heartbeats, the chain and the door: none waits for a connection that another of them has."""

from __future__ import annotations

from typing import TypeAlias

import anyio
import asyncpg
import pytest
from anyio.lowlevel import checkpoint

from pipeline.store import IdempotencyKey
from pipeline.store.postgres import PostgresStore
from tests.conformance.store_suite.making import ACME, LEASE, claim, submit

pytestmark = pytest.mark.postgres

Admin: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

WAITING = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


async def waiting_for_a_lock(admin: Admin) -> None:
    with anyio.fail_after(5):
        while not await admin.fetchval(WAITING):
            await checkpoint()


async def test_jobs_begin_and_end_though_every_connection_of_the_door_waits(dsn: str, admin: Admin) -> None:
    async with PostgresStore(dsn, pool_size=1) as store, anyio.create_task_group() as group:
        job = await submit(store)
        async with admin.transaction():
            await admin.execute("LOCK TABLE antiphon.idempotency_keys")
            group.start_soon(store.tenant(ACME).made_with, IdempotencyKey("once", b"digest"))
            await waiting_for_a_lock(admin)
            taken = await claim(store)
            await store.queue().cancel(taken)
        assert taken.job.id == job.id


async def test_leases_are_renewed_though_every_connection_of_the_chain_waits(dsn: str, admin: Admin) -> None:
    async with PostgresStore(dsn, pool_size=1) as store, anyio.create_task_group() as group:
        await submit(store)
        taken = await claim(store)
        async with admin.transaction():
            await admin.execute("LOCK TABLE antiphon.checkpoints")
            group.start_soon(store.queue().kept, taken)
            await waiting_for_a_lock(admin)
            answer = await store.queue().renew([taken], lease_seconds=LEASE)
        assert answer.kept == {taken.token}

"""The outbox among several senders, and in the transaction that ends a job."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeAlias

import anyio
import asyncpg
import pytest

from pipeline.jobs import JobStatus
from pipeline.store import Delivery, Store, Unavailable
from pipeline.store.postgres import PostgresStore
from tests.conformance.store_suite.making import ACME, Settle, claim, due, every_end, submit

pytestmark = pytest.mark.postgres

Admin: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
HOOK = "https://app.test/hook?key=c0ffee"


async def told(store: PostgresStore, count: int = 1) -> list[Delivery]:
    """Deliveries that have been taken, each of a job that was cancelled at the door."""
    for _ in range(count):
        job = await submit(store, callback_url=HOOK)
        await store.tenant(ACME).cancel(job.id)
    return list(await due(store))


async def done(store: PostgresStore, delivery: Delivery, *, status: int = 204) -> None:
    await store.outbox().tried(delivery, seconds=0.1, status=status, error=None, retry_in=None)


async def test_senders_share_what_is_due_and_send_nothing_twice(store: PostgresStore, dsn: str) -> None:
    for _ in range(20):
        job = await submit(store, callback_url=HOOK)
        await store.tenant(ACME).cancel(job.id)
    taken: list[Delivery] = []

    async def send(sender: Store) -> None:
        while batch := await sender.outbox().due(limit=3, lease_seconds=60):
            taken.extend(batch)

    async with PostgresStore(dsn) as other, anyio.create_task_group() as tasks:
        for sender in (store, other) * 3:
            tasks.start_soon(send, sender)
    assert len(taken) == len({delivery.id for delivery in taken}) == 20


async def test_what_another_sender_takes_at_this_moment_is_not_waited_for(store: PostgresStore, admin: Admin) -> None:
    for _ in range(2):
        job = await submit(store, callback_url=HOOK)
        await store.tenant(ACME).cancel(job.id)
    async with admin.transaction():
        held = await admin.fetchval("SELECT id FROM antiphon.deliveries LIMIT 1 FOR UPDATE")
        (free,) = await due(store)
    assert free.id != held


async def test_a_try_that_is_told_twice_is_logged_once(store: PostgresStore, admin: Admin) -> None:
    """Whoever does not know whether it was written tells it again."""
    (delivery,) = await told(store)
    for _ in range(2):
        await store.outbox().tried(delivery, seconds=0.1, status=503, error=None, retry_in=5.0)
    assert await admin.fetchval("SELECT count(*) FROM antiphon.delivery_tries") == 1


async def test_a_late_failure_takes_back_no_delivery(store: PostgresStore, admin: Admin) -> None:
    """A sender that was silent for longer than its lease: somebody else has delivered meanwhile."""
    (late,) = await told(store)
    await admin.execute("UPDATE antiphon.deliveries SET next_try_at = now()")
    (again,) = await due(store)
    await done(store, again)

    await store.outbox().tried(late, seconds=60.0, status=None, error="TimeoutException", retry_in=0.0)
    assert list(await due(store)) == []
    assert await admin.fetchval("SELECT delivered_at IS NOT NULL AND url IS NULL FROM antiphon.deliveries")


@pytest.mark.parametrize(("status", "delivered"), [(200, True), (299, True), (300, False), (410, False)])
async def test_only_an_answer_that_says_so_is_a_delivery(
    store: PostgresStore, admin: Admin, status: int, delivered: bool
) -> None:
    (delivery,) = await told(store)
    await done(store, delivery, status=status)
    row = await admin.fetchrow(
        "SELECT delivered_at IS NOT NULL AS delivered, url, next_try_at FROM antiphon.deliveries"
    )
    assert row is not None
    assert tuple(row) == (delivered, None, None)


async def test_a_try_of_what_was_erased_meanwhile_is_forgotten(store: PostgresStore, admin: Admin) -> None:
    (delivery,) = await told(store)
    await admin.execute("DELETE FROM antiphon.deliveries")
    await done(store, delivery)
    assert await admin.fetchval("SELECT count(*) FROM antiphon.delivery_tries") == 0


@asynccontextmanager
async def refusing(admin: Admin) -> AsyncIterator[None]:
    """The outbox takes no rows."""
    body = "BEGIN RAISE EXCEPTION 'on purpose' USING ERRCODE = '58030'; END"
    await admin.execute(f"CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $${body}$$")
    await admin.execute("CREATE TRIGGER refuse BEFORE INSERT ON antiphon.deliveries EXECUTE FUNCTION refuse()")
    try:
        yield
    finally:
        await admin.execute("DROP FUNCTION refuse CASCADE")


@every_end
async def test_no_job_ends_without_its_event(store: PostgresStore, admin: Admin, settle: Settle) -> None:
    job = await submit(store, callback_url=HOOK)
    taken = await claim(store)
    async with refusing(admin):
        with pytest.raises(Unavailable):
            await settle(store.queue(), taken)
    assert (await store.tenant(ACME).get(job.id)).status is JobStatus.RUNNING

    await settle(store.queue(), taken)
    assert [delivery.job for delivery in await due(store)] == [job.id]


async def test_no_waiting_job_is_cancelled_without_its_event(store: PostgresStore, admin: Admin) -> None:
    job = await submit(store, callback_url=HOOK)
    async with refusing(admin):
        with pytest.raises(Unavailable):
            await store.tenant(ACME).cancel(job.id)
    assert (await store.tenant(ACME).get(job.id)).status is JobStatus.PENDING

"""Connections that break, block, are cancelled, or bring news."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeAlias

import anyio
import asyncpg
import pytest
from anyio.lowlevel import checkpoint

from pipeline.errors import NotFound
from pipeline.store import Unavailable
from pipeline.store.postgres import PostgresStore, database, notices, uploads
from tests.conformance.store_suite.making import ACME, LEASE, claim, submit

pytestmark = pytest.mark.postgres

Admin: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

OTHERS = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
LISTENS = "query LIKE 'LISTEN%'"


async def listening(admin: Admin, stores: int) -> None:
    """Wait until so many stores listen."""
    with anyio.fail_after(10):
        while await admin.fetchval(f"SELECT count(*) {OTHERS} AND {LISTENS}") < stores:
            await checkpoint()


async def drain(store: PostgresStore) -> None:
    """Let the store hear what it has to hear until now."""
    with anyio.fail_after(10):
        await store.queue().work(poll_seconds=0.001)


async def test_a_submit_here_is_heard_by_another_replica(store: PostgresStore, dsn: str, admin: Admin) -> None:
    async with PostgresStore(dsn) as other:
        await listening(admin, stores=2)
        await drain(other)
        with anyio.fail_after(10):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(lambda: other.queue().work(poll_seconds=3600))
                await submit(store)
        await claim(other)


async def test_a_listener_that_was_cut_off_listens_again(store: PostgresStore, dsn: str, admin: Admin) -> None:
    async with PostgresStore(dsn) as other:
        await listening(admin, stores=2)
        await admin.execute(f"SELECT pg_terminate_backend(pid) {OTHERS} AND {LISTENS}")
        with anyio.fail_after(10):
            while await admin.fetchval(f"SELECT count(*) {OTHERS} AND {LISTENS}"):
                await checkpoint()
        await listening(admin, stores=2)
        await drain(other)
        with anyio.fail_after(10):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(lambda: other.queue().work(poll_seconds=3600))
                await submit(store)


@pytest.mark.parametrize("erase", [False, True], ids=["cancel", "delete"])
async def test_a_cancel_here_is_heard_by_another_replica(
    store: PostgresStore, dsn: str, admin: Admin, erase: bool
) -> None:
    async with PostgresStore(dsn) as other:
        await listening(admin, stores=2)
        with anyio.fail_after(10):
            await other.queue().cancels()  # what may have been said before it listened
        job = await submit(store)
        running = await claim(other)
        with anyio.fail_after(10):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(other.queue().cancels)
                await (store.tenant(ACME).delete(job.id) if erase else store.tenant(ACME).cancel(job.id))
        renewal = await other.queue().renew([running], lease_seconds=LEASE)

    assert renewal.cancelled == (frozenset() if erase else {running.token})
    assert renewal.kept == frozenset()


async def test_killed_backends_are_survived(store: PostgresStore, admin: Admin) -> None:
    job = await submit(store)
    for _ in range(5):
        await admin.execute(f"SELECT pg_terminate_backend(pid) {OTHERS}")
        with anyio.fail_after(10):
            while True:
                try:
                    assert await store.tenant(ACME).get(job.id) == job
                    break
                except Unavailable:
                    continue


async def test_a_backend_killed_at_work_makes_the_call_unavailable(store: PostgresStore, admin: Admin) -> None:
    job = await submit(store)
    async with anyio.create_task_group() as tasks, admin.transaction():
        await admin.execute("LOCK TABLE antiphon.jobs")
        tasks.start_soon(expect_unavailable, store)
        with anyio.fail_after(5):
            while not await admin.fetchval("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE NOT granted"):
                await checkpoint()

    assert (await claim(store)).job.id == job.id


async def expect_unavailable(store: PostgresStore) -> None:
    with pytest.raises(Unavailable):
        await store.queue().claim(replica="one", lease_seconds=LEASE)


async def test_a_call_that_takes_too_long_is_unavailable(
    store: PostgresStore, admin: Admin, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    job = await submit(store)
    monkeypatch.setattr(database, "UNIT_SECONDS", 0.1)
    async with admin.transaction():
        await admin.execute("LOCK TABLE antiphon.jobs")
        with pytest.raises(Unavailable):
            await store.tenant(ACME).get(job.id)
    monkeypatch.undo()

    assert await store.tenant(ACME).get(job.id) == job
    assert caplog.records == []  # the driver complains of connections that come back in the middle of something


async def test_a_cancelled_call_is_done_to_its_end(store: PostgresStore) -> None:
    with anyio.CancelScope() as scope:
        scope.cancel()
        job = await submit(store)
        taken = await store.queue().claim(replica="one", lease_seconds=LEASE)

    assert taken is not None
    assert taken.job.id == job.id


async def test_cancelled_calls_leak_no_connection(dsn: str, admin: Admin) -> None:
    async with PostgresStore(dsn, pool_size=2) as store:
        for _ in range(20):
            async with anyio.create_task_group() as tasks:
                for _ in range(4):
                    tasks.start_soon(submit, store)
                await checkpoint()
                tasks.cancel_scope.cancel()

        async with anyio.create_task_group() as tasks:
            for _ in range(4):
                tasks.start_soon(store.tenant(ACME).standing)
        assert await admin.fetchval(f"SELECT count(*) {OTHERS} AND state LIKE 'idle in transaction%'") == 0


async def test_without_a_server_every_call_is_unavailable() -> None:
    async with PostgresStore("postgresql://service:service@127.0.0.1:1/antiphon") as store:
        with pytest.raises(Unavailable) as away:
            await store.ping()
        with pytest.raises(Unavailable):
            await store.queue().claim(replica="one", lease_seconds=LEASE)
    assert "service" not in str(away.value)


async def test_a_password_that_is_changed_and_changed_back_is_survived(
    dsn: str, admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notices, "RECONNECT_SECONDS", 0.01)
    monkeypatch.setattr(uploads, "ERASE_SECONDS", 0.01)
    async with PostgresStore(dsn) as store:
        await listening(admin, stores=1)
        await admin.execute("ALTER ROLE service PASSWORD 'another'")
        try:
            await admin.execute(f"SELECT pg_terminate_backend(pid) {OTHERS}")
            with anyio.fail_after(10):
                while await admin.fetchval(f"SELECT count(*) {OTHERS}"):
                    await checkpoint()
            for _ in range(20):  # in which time the listener and the eraser are refused too
                with pytest.raises(Unavailable):
                    await store.ping()
        finally:
            await admin.execute("ALTER ROLE service PASSWORD 'service'")
        await listening(admin, stores=1)
        await store.ping()


@pytest.fixture
async def failing(admin: Admin) -> AsyncIterator[Callable[[str], Awaitable[None]]]:
    """Make every submit fail in the server, with this SQLSTATE."""

    async def fail(code: str) -> None:
        body = f"BEGIN RAISE EXCEPTION 'on purpose' USING ERRCODE = '{code}'; END"
        await admin.execute(f"CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $${body}$$")
        await admin.execute("CREATE TRIGGER fail BEFORE INSERT ON antiphon.jobs EXECUTE FUNCTION fail()")

    yield fail
    await admin.execute("DROP FUNCTION fail CASCADE")


@pytest.mark.parametrize("code", ["25006", "40001", "53100", "53200", "57P01", "58000", "58030", "XX000", "XX001"])
async def test_a_server_in_trouble_is_unavailable(
    store: PostgresStore, failing: Callable[[str], Awaitable[None]], code: str
) -> None:
    await failing(code)
    with pytest.raises(Unavailable):
        await submit(store)
    await store.ping()


@pytest.mark.parametrize("code", ["22000", "23505", "42601", "P0001"])
async def test_a_statement_that_can_never_work_is_not_unavailable(
    store: PostgresStore, failing: Callable[[str], Awaitable[None]], code: str
) -> None:
    await failing(code)
    with pytest.raises(asyncpg.PostgresError) as told:
        await submit(store)
    assert told.value.sqlstate == code
    await store.ping()


@pytest.mark.parametrize(("values", "error"), [(("x",), asyncpg.DataError), ((), asyncpg.InterfaceError)])
async def test_values_that_no_statement_takes_are_not_unavailable(
    dsn: str, values: tuple[str, ...], error: type[Exception]
) -> None:
    pool = database.Database(dsn, pool_size=1, pooled=False)
    await pool.open()
    with pytest.raises(error):
        await pool.unit(database.CHAIN, lambda connection: connection.fetchval("SELECT $1::integer", *values))
    assert await pool.unit(database.CHAIN, lambda connection: connection.fetchval("SELECT 1")) == 1
    await pool.close()


async def test_a_table_that_a_newer_replica_has_changed_is_used_again_at_the_next_call(
    store: PostgresStore, admin: Admin
) -> None:
    assert await store.queue().claim(replica="one", lease_seconds=LEASE) is None
    await admin.execute("ALTER TABLE antiphon.jobs ADD newer text")
    try:
        job = await submit(store)
        with anyio.fail_after(10):
            while True:
                try:
                    assert (await claim(store)).job.id == job.id
                    break
                except Unavailable:
                    continue
    finally:
        await admin.execute("ALTER TABLE antiphon.jobs DROP newer")


async def test_a_closed_store_is_unavailable(dsn: str) -> None:
    async with PostgresStore(dsn) as store:
        await store.ping()
    with pytest.raises(Unavailable):
        await store.ping()


async def test_errors_inside_the_block_come_out_as_they_are(dsn: str) -> None:
    with pytest.raises(NotFound):
        async with PostgresStore(dsn):
            raise NotFound


async def test_it_works_through_a_transaction_pooler_too(dsn: str) -> None:
    """A pooler forgets prepared statements; with ``direct_dsn`` none are kept."""
    async with PostgresStore(dsn, direct_dsn=dsn) as store:
        job = await submit(store)
        assert (await claim(store)).job.id == job.id

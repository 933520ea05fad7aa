"""The schema: made once, by whoever comes first, and such that illegal states cannot be stored."""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import SimpleNamespace

import anyio
import asyncpg
import pytest

from pipeline.errors import ConfigError
from pipeline.jobs import Tenant
from pipeline.store import Swept, Unavailable
from pipeline.store.postgres import PostgresStore, migrate, migrations
from tests.conformance.store_suite.making import TRANSCRIPT, USAGE, claim, nothing_ready, submit

pytestmark = pytest.mark.postgres


async def test_migrating_again_changes_nothing(empty: str) -> None:
    await migrate(empty)
    async with PostgresStore(empty) as store:
        job = await submit(store)
        await migrate(empty)

        assert (await claim(store)).job.id == job.id


async def test_many_processes_may_migrate_at_once(empty: str) -> None:
    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(migrate, empty)
    async with PostgresStore(empty) as store:
        await submit(store)


async def test_a_second_database_of_the_same_server_finds_the_roles_there(empty: str, store: PostgresStore) -> None:
    await migrate(empty)
    async with PostgresStore(empty) as other:
        await submit(other)
        assert (await store.queue().health()).pending == 0


async def submit_as_before(dsn: str, tenant: str, *, retried: bool = False) -> None:
    """A job as the release before has put it into the queue, or has failed it once."""
    connection = await asyncpg.connect(dsn)
    async with connection.transaction():
        await connection.execute("SELECT set_config('role', 'antiphon_door', true)")
        await connection.execute("SELECT set_config('app.tenant_id', $1, true)", tenant)
        await connection.execute(
            "INSERT INTO antiphon.jobs"
            " (id, tenant_id, request, secrets, trace, uploads, priority, max_attempts, progress)"
            " VALUES (gen_random_uuid(), $1, '{}', '{}', '{}', '{}', 0, 3, '{}')",
            tenant,
        )
        await connection.execute("SELECT set_config('role', 'antiphon_chain', true)")
        if retried:
            await connection.execute("UPDATE antiphon.jobs SET attempt = 1, next_attempt_at = now()")
    await connection.close()


async def test_what_the_release_before_has_queued_is_in_the_turn_after_migrating(
    empty: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = migrations._load
    with monkeypatch.context() as before:
        before.setattr(migrations, "_load", lambda: load()[:1])
        await migrate(empty)
    await submit_as_before(empty, "tries-again", retried=True)
    await submit_as_before(empty, "waits")
    await migrate(empty)

    async with PostgresStore(empty) as store:
        assert (await claim(store)).job.tenant == Tenant("waits")
        assert (await store.queue().tend()).due == 1
        assert (await claim(store)).job.tenant == Tenant("tries-again")
        assert await store.queue().sweep() == Swept()


@pytest.fixture
async def held(empty: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """A transaction that has the jobs of the release before in hand, beside migrations that try twice."""
    load = migrations._load
    with monkeypatch.context() as before:
        before.setattr(migrations, "_load", lambda: load()[:1])
        await migrate(empty)
    for name, value in (("LOCK_SECONDS", 0.01), ("PAUSE_SECONDS", 0.01), ("TRIES", 2)):
        monkeypatch.setattr(migrations, name, value)
    holder = await asyncpg.connect(empty)
    transaction = holder.transaction()
    await transaction.start()
    await holder.execute("LOCK TABLE antiphon.jobs IN ACCESS SHARE MODE")
    yield holder
    await holder.close()


async def test_a_table_that_somebody_holds_ends_the_migration_and_changes_nothing(
    empty: str, held: asyncpg.Connection[asyncpg.Record]
) -> None:
    with pytest.raises(ConfigError, match="pg_terminate_backend"):
        await migrate(empty)
    await held.execute("ROLLBACK")
    await migrate(empty)
    async with PostgresStore(empty) as store:
        await submit(store)


async def test_a_table_that_is_let_go_of_is_migrated_by_a_later_try(
    empty: str, held: asyncpg.Connection[asyncpg.Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def let_go(_: float) -> None:
        await held.execute("ROLLBACK")

    parts = SimpleNamespace(sleep=let_go, to_thread=anyio.to_thread, move_on_after=anyio.move_on_after)
    monkeypatch.setattr(migrations, "anyio", parts)
    await migrate(empty)


async def test_what_a_replica_of_the_release_before_queues_meanwhile_is_found_by_the_sweep(
    dsn: str, store: PostgresStore
) -> None:
    await submit_as_before(dsn, "acme")
    assert await nothing_ready(store)

    assert await store.queue().sweep() == Swept(repaired=1)
    assert (await claim(store)).job.tenant == Tenant("acme")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("service:service@", "service:hunter2@"), "password authentication failed"),
        (("/empty_", "/nowhere_"), "does not exist"),
        (("postgresql://", "mysql://"), "DATABASE__DSN cannot be read"),
        ((":service@", ":service@:port"), "DATABASE__DSN cannot be read"),
    ],
)
async def test_a_wrong_dsn_is_told_of_without_its_password(empty: str, change: tuple[str, str], told: str) -> None:
    with pytest.raises(ConfigError, match=told) as refused:
        await migrate(empty.replace(*change))
    assert "hunter2" not in str(refused.value)


async def test_a_server_that_is_away_is_unavailable() -> None:
    with pytest.raises(Unavailable):
        await migrate("postgresql://service:service@127.0.0.1:1/antiphon")


@pytest.mark.parametrize(
    "change",
    [
        "status = 'paused'",
        "status = 'running'",
        "completed_at = NULL",
        "started_at = NULL",
        "usage = NULL",
        """error = '{"code": "internal"}'""",
        """secrets = '{"media_url": "https://media.test/?sig=c0ffee"}'""",
        "uploads = ARRAY[gen_random_uuid()]",
        "next_attempt_at = now()",
        "attempt = max_attempts + 1",
        "attempt = -1",
        "losses = attempt + 1",
        "losses = -1",
    ],
)
async def test_a_completed_job_cannot_become_something_that_no_job_is(
    store: PostgresStore, admin: asyncpg.Connection[asyncpg.Record], change: str
) -> None:
    await submit(store)
    await store.queue().commit(await claim(store), TRANSCRIPT, USAGE)

    with pytest.raises(asyncpg.CheckViolationError):
        await admin.execute(f"UPDATE antiphon.jobs SET {change}")


async def test_a_job_that_has_not_ended_does_not_expire(
    store: PostgresStore, admin: asyncpg.Connection[asyncpg.Record]
) -> None:
    await submit(store)
    with pytest.raises(asyncpg.CheckViolationError):
        await admin.execute("UPDATE antiphon.jobs SET expires_at = now()")

"""The schema: made once, by whoever comes first, and such that illegal states cannot be stored."""

from __future__ import annotations

import anyio
import asyncpg
import pytest

from pipeline.errors import ConfigError
from pipeline.store import Unavailable
from pipeline.store.postgres import PostgresStore, migrate
from tests.conformance.store_suite.making import TRANSCRIPT, USAGE, claim, submit

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
        assert (await store.queue().depth()).pending == 0


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
    ],
)
async def test_a_completed_job_cannot_become_something_that_no_job_is(
    store: PostgresStore, admin: asyncpg.Connection[asyncpg.Record], change: str
) -> None:
    await submit(store)
    await store.queue().commit(await claim(store), TRANSCRIPT, USAGE)

    with pytest.raises(asyncpg.CheckViolationError):
        await admin.execute(f"UPDATE antiphon.jobs SET {change}")

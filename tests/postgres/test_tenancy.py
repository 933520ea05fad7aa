"""Row-level security: what is seen when a WHERE has been forgotten."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TypeAlias

import asyncpg
import pytest

from pipeline.store.postgres import PostgresStore
from tests.conformance.store_suite.making import ACME, TRANSCRIPT, USAGE, a_request, claim, submit, upload

pytestmark = pytest.mark.postgres

Service: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
TABLES = {
    "jobs": "id, status",
    "leases": "job_id, progress",
    "attempts": "token",
    "transcripts": "transcript",
    "uploads": "id",
    "upload_chunks": "number",
}
HIDDEN = ("attempts", "upload_chunks")  # the door has no business there at all
OF_NOBODY = ("migrations",)
every_table = pytest.mark.parametrize("table", TABLES)


@pytest.fixture
async def service(store: PostgresStore, dsn: str) -> AsyncIterator[Service]:
    """The service's own login, with a row of acme's in every table."""
    await submit(store)
    await store.queue().commit(await claim(store), TRANSCRIPT, USAGE)
    file = await upload(store, b"media")
    await store.tenant(ACME).submit(a_request(media_url=None), uploads=[file])
    await claim(store)
    connection = await asyncpg.connect(dsn)
    yield connection
    await connection.close()


async def seen(service: Service, table: str, *, role: str | None, tenant: str | None) -> int:
    """How many rows a statement without a WHERE finds."""
    async with service.transaction():
        if tenant is not None:
            await service.execute("SELECT set_config('app.tenant_id', $1, true)", tenant)
        if role is not None:
            await service.execute("SELECT set_config('role', $1, true)", role)
        return len(await service.fetch(f"SELECT {TABLES[table]} FROM antiphon.{table}"))


async def test_every_table_is_watched(admin: Service) -> None:
    rows = await admin.fetch(
        "SELECT relname, relrowsecurity AND relforcerowsecurity AS watched FROM pg_class"
        " WHERE relnamespace = 'antiphon'::regnamespace AND relkind = 'r'"
    )
    assert {row["relname"]: row["watched"] for row in rows} == dict.fromkeys(TABLES, True) | dict.fromkeys(
        OF_NOBODY, False
    )


@pytest.mark.parametrize("table", [table for table in TABLES if table not in HIDDEN])
async def test_the_door_sees_its_tenants_rows_and_no_others(service: Service, table: str) -> None:
    assert await seen(service, table, role="antiphon_door", tenant="acme") > 0
    for tenant in ("globex", "", None):
        assert await seen(service, table, role="antiphon_door", tenant=tenant) == 0


@pytest.mark.parametrize("table", HIDDEN)
async def test_the_door_may_not_even_look_where_it_has_no_business(service: Service, table: str) -> None:
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await seen(service, table, role="antiphon_door", tenant="acme")


@every_table
async def test_the_chain_sees_every_tenants_rows(service: Service, table: str) -> None:
    assert await seen(service, table, role="antiphon_chain", tenant=None) > 0


@every_table
async def test_the_owner_of_the_tables_sees_nothing_before_it_steps_into_a_role(service: Service, table: str) -> None:
    assert await seen(service, table, role=None, tenant="acme") == 0


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT secrets FROM antiphon.jobs",
        "SELECT token FROM antiphon.leases",
        "UPDATE antiphon.jobs SET status = 'completed'",
        "DELETE FROM antiphon.leases",
        "DELETE FROM antiphon.uploads",
        "INSERT INTO antiphon.uploads (id, tenant_id) VALUES (gen_random_uuid(), 'globex')",
        "UPDATE antiphon.uploads SET tenant_id = 'globex'",
        "TRUNCATE antiphon.jobs CASCADE",
    ],
)
async def test_the_door_may_not(service: Service, statement: str) -> None:
    await service.execute("SELECT set_config('app.tenant_id', 'acme', false)")
    await service.execute("SELECT set_config('role', 'antiphon_door', false)")

    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await service.execute(statement)

"""What the door's role reaches when a statement has forgotten its WHERE, or was never ours: found in the catalogue, so
that no table, view, sequence or function can be left out."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from uuid import uuid4

import asyncpg
import pytest

from tests.postgres.foreign import NAMES, Belongings, Connection, contents, tables

pytestmark = pytest.mark.postgres

DOOR, CHAIN = "antiphon_door", "antiphon_chain"
STRANGERS = (None, "", *NAMES)  # None: nobody has said who the tenant is

# All that the door may do beyond its own rows; who adds to it thinks of what it tells and changes.
DOORS_FUNCTIONS = {"wake_own", "cancel_own", "delete_own", "ahead_of_own", "begun_lately"}


@pytest.fixture
async def acme(admin: Connection) -> Belongings:
    return Belongings("acme")


@pytest.fixture
async def service(admin: Connection, dsn: str, acme: Belongings) -> AsyncIterator[Connection]:
    """The service's own login, with rows of acme and globex in every table."""
    for belongings in (acme, Belongings("globex")):
        await belongings.put(admin)
    connection = await asyncpg.connect(dsn)
    yield connection
    await connection.close()


async def enter(service: Connection, role: str, tenant: str | None) -> None:
    """Be this role, for this tenant, until the transaction ends."""
    if tenant is not None:
        await service.execute("SELECT set_config('app.tenant_id', $1, true)", tenant)
    await service.execute("SELECT set_config('role', $1, true)", role)


async def reached(service: Connection, statement: str, *values: object) -> int | None:
    """How many rows a statement finds, changes or locks; ``None`` when it is refused. It leaves no trace."""
    attempt = service.transaction()
    await attempt.start()
    try:
        return int((await service.execute(statement, *values)).split()[-1])
    except asyncpg.InsufficientPrivilegeError:
        return None
    finally:
        await attempt.rollback()


async def columns(admin: Connection, table: str, privilege: str = "") -> list[str]:
    """Of a table; with a privilege, those for which the door has it."""
    rows = await admin.fetch(
        "SELECT attname FROM pg_attribute WHERE attrelid = $1::text::regclass AND attnum > 0 AND NOT attisdropped"
        " AND ($2 = '' OR has_column_privilege('antiphon_door', attrelid, attnum, nullif($2, '')))",
        f"antiphon.{table}",
        privilege,
    )
    return [row["attname"] for row in rows]


async def attempts(admin: Connection, table: str) -> list[str]:
    """Statements without a WHERE that read, lock, count or change a whole table."""
    locking = ("UPDATE", "NO KEY UPDATE", "SHARE", "KEY SHARE")
    seen = ", ".join(await columns(admin, table, "SELECT")) or "*"
    return [
        f"SELECT {seen} FROM antiphon.{table}",
        f"SELECT FROM antiphon.{table} TABLESAMPLE SYSTEM (100)",
        *(f"SELECT FROM antiphon.{table} FOR {lock}" for lock in locking),
        *(f"UPDATE antiphon.{table} SET {column} = {column}" for column in await columns(admin, table, "UPDATE")),
        f"DELETE FROM antiphon.{table}",
    ]


async def test_every_table_has_a_row_to_be_reached_for(admin: Connection, service: Connection) -> None:
    for table in await tables(admin):
        owners = await admin.fetch(f"SELECT DISTINCT tenant_id FROM antiphon.{table}")
        assert {row["tenant_id"] for row in owners} == {"acme", "globex"}, f"Give Belongings a row of {table}."


async def test_every_table_is_watched_whoever_asks(admin: Connection, service: Connection) -> None:
    rows = await admin.fetch(
        "SELECT relname FROM pg_class WHERE relnamespace = 'antiphon'::regnamespace AND relkind IN ('r', 'p')"
        " AND relrowsecurity AND relforcerowsecurity ORDER BY relname"
    )
    assert [row["relname"] for row in rows] == await tables(admin)
    for role in (DOOR, CHAIN):
        assert not await admin.fetchval("SELECT has_table_privilege($1, 'antiphon.migrations', 'SELECT')", role)


@pytest.mark.parametrize("tenant", STRANGERS, ids=ascii)
async def test_a_stranger_reaches_no_row_of_any_table(admin: Connection, service: Connection, tenant: str) -> None:
    async with service.transaction():
        await enter(service, DOOR, tenant)
        for table in await tables(admin):
            for statement in await attempts(admin, table):
                assert not await reached(service, statement), statement


async def test_a_tenant_reaches_its_own_rows_by_the_same_statements(admin: Connection, service: Connection) -> None:
    """The walk above could not fail otherwise."""
    found = set()
    async with service.transaction():
        await enter(service, DOOR, "acme")
        for table in await tables(admin):
            rows = max([await reached(service, statement) or 0 for statement in await attempts(admin, table)])
            own = await admin.fetchval(f"SELECT count(*) FROM antiphon.{table} WHERE tenant_id = 'acme'")
            assert rows in (0, own), table
            found |= {table} if rows else set()
    assert found == {"jobs", "leases", "transcripts", "uploads", "tenants", "idempotency_keys", "usage"}


async def test_the_chain_sees_all_rows_and_the_owner_none_before_it_steps_into_a_role(
    admin: Connection, service: Connection
) -> None:
    for table in await tables(admin):
        rows = await admin.fetchval(f"SELECT count(*) FROM antiphon.{table}")
        assert await reached(service, f"SELECT FROM antiphon.{table}") == 0
        async with service.transaction():
            await enter(service, CHAIN, None)
            assert await reached(service, f"SELECT FROM antiphon.{table}") in (rows, None), table


async def test_the_door_locks_and_empties_no_table(admin: Connection, service: Connection) -> None:
    async with service.transaction():
        await enter(service, DOOR, "acme")
        for table in await tables(admin):
            for mode in ("SHARE", "EXCLUSIVE", "ACCESS EXCLUSIVE"):
                assert await refused(service, f"LOCK TABLE antiphon.{table} IN {mode} MODE"), table
            assert await refused(service, f"TRUNCATE antiphon.{table} CASCADE"), table


async def refused(service: Connection, statement: str, *values: object) -> str | None:
    """The text of the refusal."""
    try:
        async with service.transaction():
            await service.execute(statement, *values)
    except asyncpg.InsufficientPrivilegeError as error:
        return str(error)
    return None


@pytest.mark.parametrize("tenant", [None, "", "globex"])
async def test_no_row_is_put_in_for_another_tenant(admin: Connection, service: Connection, tenant: str) -> None:
    async with service.transaction():
        await enter(service, DOOR, tenant)
        for table in await tables(admin):
            assert await refused(service, f"INSERT INTO antiphon.{table} (tenant_id) VALUES ('acme')"), table


async def test_the_door_gets_no_secret_out_and_changes_no_job(admin: Connection, service: Connection) -> None:
    for column in ("secrets", "callback_url", "trace", "seq"):
        assert column not in await columns(admin, "jobs", "SELECT")
    assert "token" not in await columns(admin, "leases", "SELECT")
    changed = {table: await columns(admin, table, "UPDATE") for table in await tables(admin)}
    assert {table: names for table, names in changed.items() if names} == {
        "uploads": ["job_id", "chunks", "touched_at", "discarded"]
    }


async def test_views_and_sequences_are_not_for_the_door(admin: Connection, service: Connection) -> None:
    rows = await admin.fetch(
        "SELECT oid::regclass::text AS name, relkind IN ('v', 'm') AS view FROM pg_class"
        " WHERE relnamespace = 'antiphon'::regnamespace AND relkind IN ('v', 'm', 'S', 'f')"
    )
    assert rows
    for row in rows:
        asked = "any_column" if row["view"] else "sequence"
        assert not await admin.fetchval(f"SELECT has_{asked}_privilege($1, $2, 'SELECT')", DOOR, row["name"]), row


async def test_the_door_may_call_what_asks_for_its_own_and_nothing_else(admin: Connection, service: Connection) -> None:
    rows = await admin.fetch(
        "SELECT proname, prosecdef, proowner::regrole::text AS owner, coalesce(proconfig, '{}') AS settings,"
        " has_function_privilege('antiphon_door', oid, 'EXECUTE') AS allowed FROM pg_proc"
        " WHERE pronamespace = 'antiphon'::regnamespace"
    )
    assert {row["proname"] for row in rows if row["allowed"]} == DOORS_FUNCTIONS
    for row in rows:
        if row["prosecdef"]:
            assert row["owner"] == CHAIN
            assert "search_path=pg_catalog, pg_temp" in row["settings"]


@pytest.mark.parametrize("tenant", STRANGERS, ids=ascii)
async def test_functions_do_nothing_to_the_rows_of_others(
    admin: Connection, service: Connection, acme: Belongings, tenant: str
) -> None:
    before = await contents(admin)
    for name in sorted(DOORS_FUNCTIONS - {"wake_own"}):
        wanted = [acme.job] if name in ("cancel_own", "delete_own") else []
        async with service.transaction():
            await enter(service, DOOR, tenant)
            told = await service.fetchval(f"SELECT antiphon.{name}({', '.join('$1' for _ in wanted)})", *wanted)
        assert told is None or name == "begun_lately"
    assert await contents(admin) == before


@pytest.mark.parametrize("tenant", STRANGERS, ids=ascii)
async def test_waking_a_stranger_locks_and_wakes_nobody_else(
    admin: Connection, service: Connection, tenant: str | None
) -> None:
    await admin.execute("UPDATE antiphon.tenants SET ready = false")
    async with service.transaction():
        await enter(service, DOOR, tenant)
        await service.execute("SELECT antiphon.wake_own()")
        locks = "SELECT classid::bigint << 32 | objid::bigint FROM pg_locks WHERE locktype = 'advisory'"
        own = [await admin.fetchval("SELECT antiphon.turn_key($1)", tenant)] if tenant else []
        assert [row[0] for row in await admin.fetch(locks)] == own
    assert await admin.fetchval("SELECT count(*) FROM antiphon.tenants WHERE ready") == 0


KEY = "INSERT INTO antiphon.idempotency_keys (tenant_id, key, digest, job_id) VALUES ('initech', 'k', '', $1)"
UPLOAD = "UPDATE antiphon.uploads SET job_id = $1"
CHUNK = "INSERT INTO antiphon.upload_chunks (upload_id, tenant_id, number, bytes) VALUES ($1, 'initech', 1, '')"


@pytest.mark.parametrize(("statement", "to"), [(KEY, "job"), (UPLOAD, "job"), (CHUNK, "upload"), (CHUNK, "loose")])
async def test_a_row_that_hangs_on_anothers_is_refused_as_one_that_hangs_on_nothing(
    service: Connection, acme: Belongings, statement: str, to: str
) -> None:
    async with service.transaction():
        await enter(service, DOOR, "initech")
        await service.execute("INSERT INTO antiphon.uploads (id, tenant_id) VALUES (gen_random_uuid(), 'initech')")
        told = await refused(service, statement, getattr(acme, to))
        assert told
        assert told == await refused(service, statement, uuid4())


JOB = """
INSERT INTO antiphon.jobs (id, tenant_id, request, secrets, priority, max_attempts, progress)
VALUES ($1, 'initech', '{}', '{}', 0, 3, '{}')
"""
FILE = "INSERT INTO antiphon.uploads (id, tenant_id) VALUES ($1, 'initech')"


@pytest.mark.parametrize(("statement", "taken"), [(JOB, "job"), (FILE, "upload")])
async def test_whoever_draws_an_id_that_is_taken_is_told_nothing_of_whose(
    service: Connection, acme: Belongings, statement: str, taken: str
) -> None:
    async with service.transaction():
        await enter(service, DOOR, "initech")
        with pytest.raises(asyncpg.UniqueViolationError) as told:
            await service.execute(statement, getattr(acme, taken))
    assert told.value.detail is None
    assert "acme" not in str(told.value.as_dict())


async def test_the_planner_tells_nobody_how_much_others_have(admin: Connection, service: Connection) -> None:
    await admin.execute(
        "INSERT INTO antiphon.jobs (id, tenant_id, request, secrets, priority, max_attempts, progress, external_id)"
        " SELECT gen_random_uuid(), 'acme', '{}', '{}', 0, 3, '{}', 'call-8841' FROM generate_series(1, 5000)"
    )
    await admin.execute("ANALYZE antiphon.jobs")

    async def expected(where: str, value: str) -> float:
        plan = await service.fetchval(f"EXPLAIN (FORMAT JSON) SELECT FROM antiphon.jobs WHERE {where} = '{value}'")
        return float(json.loads(plan)[0]["Plan"]["Plan Rows"])

    async with service.transaction():
        await enter(service, DOOR, "globex")
        assert await expected("tenant_id", "acme") == await expected("tenant_id", "nobody")
        assert await expected("external_id", "call-8841") == await expected("external_id", "call-1")
        assert await service.fetchval("SELECT count(*) FROM pg_stats WHERE schemaname = 'antiphon'") == 0


async def test_neither_role_owns_makes_or_becomes_anything(admin: Connection, service: Connection) -> None:
    for role, other in ((DOOR, CHAIN), (CHAIN, DOOR)):
        assert not await admin.fetchval("SELECT pg_has_role($1, $2, 'MEMBER')", role, other)
        assert not await admin.fetchval("SELECT has_schema_privilege($1, 'antiphon', 'CREATE')", role)
        assert not await admin.fetchval("SELECT has_database_privilege($1, current_database(), 'CREATE')", role)
        assert not await admin.fetchval("SELECT count(*) FROM pg_class WHERE relowner = $1::text::regrole", role)
        assert not await admin.fetchval(
            "SELECT rolsuper OR rolbypassrls OR rolcreaterole OR rolcreatedb OR rolcanlogin OR rolreplication"
            " FROM pg_roles WHERE rolname = $1",
            role,
        )


async def test_a_login_with_one_role_cannot_step_into_the_other(admin: Connection, server: str, dsn: str) -> None:
    await admin.execute("CREATE ROLE porter LOGIN PASSWORD 'porter' IN ROLE antiphon_door")
    try:
        porter = await asyncpg.connect(dsn.replace("service:service", "porter:porter"))
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await porter.execute("SET ROLE antiphon_chain")
        await porter.close()
    finally:
        await admin.execute("DROP ROLE porter")

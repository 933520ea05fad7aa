"""A PostgreSQL for the whole run, clean for every test; asyncpg and Quart need asyncio."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from itertools import count
from urllib.parse import urlsplit

import asyncpg
import pytest
from anyio.from_thread import start_blocking_portal

from pipeline.store.embedded import EmbeddedPostgres
from pipeline.store.postgres import PostgresStore, migrate
from tests.conformance.store_suite.making import Account, Books, OpenStore, PassTime, Tried, Used

# Not a superuser, whom row-level security does not bind.
LOGIN = "CREATE ROLE service LOGIN CREATEROLE PASSWORD 'service'"
NUMBERS = count()
ROOTS = ("jobs", "idempotency_keys", "uploads", "tenants", "charges", "usage", "deliveries")  # others hang on theirs


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The superuser's DSN of a server that forgets everything at a power cut, for speed."""

    async def prepare(dsn: str) -> None:
        connection = await asyncpg.connect(dsn)
        for statement in ("ALTER SYSTEM SET fsync = off", "SELECT pg_reload_conf()", LOGIN):
            await connection.execute(statement)
        await connection.execute("CREATE DATABASE migrated OWNER service")
        await connection.close()
        await migrate(at(dsn, "migrated", login="service"))

    embedded = EmbeddedPostgres(tmp_path_factory.mktemp("postgres"))
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(embedded):
        portal.call(prepare, embedded.dsn)
        yield embedded.dsn


def at(dsn: str, database: str, *, login: str | None = None) -> str:
    """The same server, another database, as another login."""
    url = urlsplit(dsn)
    who = f"{login}:{login}@{url.hostname}:{url.port}" if login else url.netloc
    return url._replace(netloc=who, path=f"/{database}").geturl()


@pytest.fixture
async def empty(server: str) -> AsyncIterator[str]:
    """The service's DSN of a database that has not been migrated."""
    name = f"empty_{next(NUMBERS)}"
    connection = await asyncpg.connect(server)
    await connection.execute(f"CREATE DATABASE {name} OWNER service")
    yield at(server, name, login="service")
    await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await connection.close()


@pytest.fixture
async def admin(server: str) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """A superuser's connection to the store's database: it sees and may do everything."""
    connection = await asyncpg.connect(at(server, "migrated"))
    yield connection
    await connection.close()


@pytest.fixture
async def dsn(server: str, admin: asyncpg.Connection[asyncpg.Record]) -> AsyncIterator[str]:
    """The service's DSN of a database with the schema, and nothing else, in it."""
    yield at(server, "migrated", login="service")
    await wipe(admin)


async def wipe(admin: asyncpg.Connection[asyncpg.Record]) -> None:
    for table in ROOTS:
        await admin.execute(f"DELETE FROM antiphon.{table}")


@pytest.fixture
async def store(dsn: str) -> AsyncIterator[PostgresStore]:
    async with PostgresStore(dsn) as store:
        yield store


DATED = [
    ("leases", "lease_until"),
    ("jobs", "next_attempt_at"),
    ("jobs", "ready_at"),
    ("jobs", "completed_at"),
    ("jobs", "expires_at"),
    ("uploads", "touched_at"),
    ("idempotency_keys", "created_at"),
    ("deliveries", "created_at"),
    ("deliveries", "next_try_at"),
    ("leases", "claimed_at"),
    ("attempts", "started_at"),
    ("attempts", "ended_at"),
]


@pytest.fixture
def pass_time(admin: asyncpg.Connection[asyncpg.Record]) -> PassTime:
    """The server's clock stays; what the queue goes by moves into the past."""

    async def age(seconds: float) -> None:
        for table, column in DATED:
            statement = f"UPDATE antiphon.{table} SET {column} = {column} - $1::interval"
            await admin.execute(statement, timedelta(seconds=seconds))

    return age


@pytest.fixture
def open_store(dsn: str) -> OpenStore:
    return lambda settings: PostgresStore(dsn, settings=settings)


class PostgresBooks:
    def __init__(self, admin: asyncpg.Connection[asyncpg.Record]) -> None:
        self._admin = admin

    async def usage(self) -> list[Used]:
        rows = await self._admin.fetch("SELECT * FROM antiphon.usage ORDER BY ended_at")
        return [
            Used(**{name: row[f"{name}_id" if name in ("job", "tenant") else name] for name in Used.__slots__})
            for row in rows
        ]

    async def accounts(self) -> list[Account]:
        rows = await self._admin.fetch(
            """
            SELECT tenant_id, ready, cost + coalesce(sum(delta), 0) / weight, usual_seconds
            FROM antiphon.tenants LEFT JOIN antiphon.charges USING (tenant_id)
            GROUP BY tenant_id ORDER BY tenant_id
            """
        )
        return [Account(*row) for row in rows]

    async def tries(self) -> list[Tried]:
        rows = await self._admin.fetch(
            """
            SELECT job_id, number, tries.status, error
            FROM antiphon.delivery_tries AS tries JOIN antiphon.deliveries ON deliveries.id = delivery_id
            ORDER BY tried_at
            """
        )
        return [Tried(*row) for row in rows]

    async def strays(self) -> int:
        strays = await self._admin.fetchval(
            """
            SELECT count(*) FROM antiphon.jobs FULL JOIN antiphon.leases ON job_id = id
            WHERE (job_id IS NOT NULL) IS DISTINCT FROM (jobs.status = 'running')
            """
        )
        return int(strays)


@pytest.fixture
def books(admin: asyncpg.Connection[asyncpg.Record]) -> Books:
    return PostgresBooks(admin)

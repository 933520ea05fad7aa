"""The schema, brought up to date: numbered files, applied in order, once each, never taken back."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from typing import Final

import anyio
import asyncpg

from pipeline.errors import ConfigError
from pipeline.store.postgres.database import UNIT_SECONDS, connecting, using
from pipeline.store.postgres.queries import SQL

LOCK: Final = 0x616E7469_70686F6E  # "antiphon" in ASCII: one migration at a time in a database

# Everybody waits behind a migration that waits for a table: not for as long as a call may take (UNIT_SECONDS), and then
# they have their turn before it tries again.
LOCK_SECONDS: Final = 2.0
PAUSE_SECONDS: Final = 1.0
TRIES: Final = 20  # a minute; what holds a table for longer is a transaction that somebody has forgotten


@dataclass(frozen=True, slots=True)
class Migration:
    number: int
    name: str
    sql: str


async def migrate(dsn: str) -> None:
    """Apply what is missing; several processes may call it at once. ``dsn`` must not lead through a pooler.

    Raises ``Unavailable`` when the server is away, and ``ConfigError`` when it does not take us or somebody holds a
    table for as long as we try.
    """
    migrations = await anyio.to_thread.run_sync(_load)
    connection = await _connected(dsn)
    try:
        with using(connection):
            await connection.execute("SELECT pg_advisory_lock($1)", LOCK)
            await _apply(connection, migrations)
    except asyncpg.InsufficientPrivilegeError as error:
        raise ConfigError(f"The database user may not set up the schema: {error}.") from error
    finally:
        with anyio.move_on_after(UNIT_SECONDS, shield=True):
            await connection.close()  # which also lets go of the lock


async def _connected(dsn: str) -> asyncpg.Connection[asyncpg.Record]:
    with connecting():
        try:
            return await asyncpg.connect(dsn, timeout=UNIT_SECONDS)
        except (asyncpg.ClientConfigurationError, ValueError) as error:
            raise ConfigError(
                "DATABASE__DSN cannot be read; it looks like postgresql://user:password@host/name."
            ) from error
        except (asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InvalidCatalogNameError) as error:
            raise ConfigError(f"PostgreSQL refuses DATABASE__DSN: {error}.") from error


async def _apply(connection: asyncpg.Connection[asyncpg.Record], migrations: list[Migration]) -> None:
    await connection.execute(SQL["begin_migrations"])
    applied = {row["number"] for row in await connection.fetch(SQL["applied"])}
    for migration in migrations:
        if migration.number not in applied:
            await _insist(connection, migration)


async def _insist(connection: asyncpg.Connection[asyncpg.Record], migration: Migration) -> None:
    for _ in range(TRIES):
        try:
            async with connection.transaction():
                await connection.execute(SQL["limit_waiting"], f"{LOCK_SECONDS:g}s")
                await connection.execute(migration.sql)
                await connection.execute(SQL["record"], migration.number, migration.name)
            return
        except asyncpg.LockNotAvailableError:
            await anyio.sleep(PAUSE_SECONDS)
    raise ConfigError(
        f"The schema cannot be changed ({migration.name}): a transaction holds one of its tables and does not end. "
        "Find it in pg_stat_activity, end it with pg_terminate_backend, and start again."
    )


def _load() -> list[Migration]:
    found = [file for file in (files("pipeline.store") / "schema").iterdir() if file.name.endswith(".sql")]
    migrations = [Migration(int(f.name[:4]), f.name[5:].removesuffix(".sql"), f.read_text()) for f in found]
    return sorted(migrations, key=lambda migration: migration.number)

"""A pool of connections and the one way to use it: a transaction in a role, shielded and bounded."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, TypeAlias, TypeVar

import anyio
import asyncpg
from asyncpg.pool import PoolConnectionProxy

from pipeline.jobs import Tenant
from pipeline.store import Unavailable
from pipeline.store.postgres.queries import SQL

Result = TypeVar("Result")
Connection: TypeAlias = "PoolConnectionProxy[asyncpg.Record]"

UNIT_SECONDS: Final = 5.0  # far above what any statement takes, far below a lease; the statement "enter" says so too

# Nothing that happens before there is a connection is a statement's fault: a password that was changed, say.
_CONNECTING: Final = (OSError, asyncpg.PostgresError, asyncpg.InternalClientError)

# The server is away, goes away, is full or broken, or has changed places with a standby; or a newer replica has changed
# a table under a prepared statement, which is prepared anew the next time.
_TROUBLE: Final = (
    OSError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.InsufficientResourcesError,
    asyncpg.PostgresSystemError,
    asyncpg.InternalServerError,
    asyncpg.TransactionRollbackError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.InvalidCachedStatementError,
    asyncpg.InternalClientError,
)


@contextmanager
def connecting() -> Iterator[None]:
    """Around getting a connection, or giving it back. Raises ``Unavailable``."""
    try:
        yield
    except _CONNECTING as error:
        raise Unavailable(f"The database cannot be reached ({type(error).__name__}).") from error


@contextmanager
def using(connection: Connection | asyncpg.Connection[asyncpg.Record]) -> Iterator[None]:
    """Around what is done with a connection. Raises ``Unavailable`` when the server is in trouble.

    asyncpg's ``InterfaceError`` is that only when the connection is lost: a wrong call would be wrong for ever.
    """
    try:
        yield
    except _TROUBLE as error:
        raise Unavailable(f"The database cannot be used right now ({type(error).__name__}).") from error
    except asyncpg.InterfaceError as error:
        if not _lost(connection):
            raise
        raise Unavailable("The connection to the database was lost.") from error


def _lost(connection: Connection | asyncpg.Connection[asyncpg.Record]) -> bool:
    try:
        return connection.is_closed()
    except asyncpg.InterfaceError:  # the pool takes a broken connection back from whoever uses it
        return True


@dataclass(frozen=True, slots=True)
class Role:
    """Whom row-level security takes a transaction for."""

    name: str
    tenant: str = ""


CHAIN: Final = Role("antiphon_chain")
LOGIN: Final = Role("none")  # nobody else: no row is seen, and what the server tells a login of its own connections is


def door(tenant: Tenant) -> Role:
    return Role("antiphon_door", tenant)


async def _as_it_is(_: asyncpg.Connection[asyncpg.Record]) -> None:
    """Role, tenant and locks end with their transaction: a unit leaves nothing behind that is worth a round trip."""


class Database:
    """``pooled``: ``dsn`` leads to a transaction pooler, which keeps no prepared statements from one to the next."""

    def __init__(self, dsn: str, *, pool_size: int, pooled: bool) -> None:
        self._dsn = dsn
        self._pool_size = pool_size
        self._statements = 0 if pooled else 100
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None

    async def open(self) -> None:
        """Connects to nothing yet: a service may start before its database."""
        self._pool = await asyncpg.create_pool(
            self._dsn,
            min_size=0,
            max_size=self._pool_size,
            timeout=UNIT_SECONDS,
            statement_cache_size=self._statements,
            reset=_as_it_is,
        )

    async def close(self) -> None:
        pool, self._pool = self._pool, None
        if pool is None:
            return
        with anyio.move_on_after(UNIT_SECONDS, shield=True) as scope:
            await pool.close()
        if scope.cancelled_caught:
            pool.terminate()

    async def unit(self, role: Role, act: Callable[[Connection], Awaitable[Result]], *, durable: bool = True) -> Result:
        """Do ``act`` in one transaction, to its end even when the caller is cancelled: no outcome stays unknown.

        Not ``durable``: a crash of the server may lose what was committed in the last moment. Raises ``Unavailable``
        when the database is away or takes longer than ``UNIT_SECONDS``.
        """
        if self._pool is None:
            raise Unavailable("The store is not open.")
        with anyio.move_on_after(UNIT_SECONDS, shield=True):
            with connecting():
                connection = await self._pool.acquire()
            try:
                with using(connection):
                    async with connection.transaction():
                        await connection.execute(SQL["enter"], role.name, role.tenant, "on" if durable else "off")
                        return await act(connection)
            except anyio.get_cancelled_exc_class():
                connection.terminate()  # in the middle of whatever it does, and of no use to the next
                raise
            finally:
                with connecting():
                    await self._pool.release(connection)
        raise Unavailable(f"The database did not answer within {UNIT_SECONDS:g} s.")

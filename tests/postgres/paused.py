"""Transactions that stop where a race is to be: just before their commit, or while they wait for a lock."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import anyio
import asyncpg
from anyio.lowlevel import checkpoint

from pipeline.errors import AntiphonError
from pipeline.jobs import Tenant
from pipeline.settings import QueueSettings
from pipeline.store import Fenced, Unavailable
from pipeline.store.postgres.database import Connection, Database, Result, Role
from pipeline.store.postgres.door import PostgresTenantJobs
from pipeline.store.postgres.notices import Notices
from pipeline.store.postgres.queue import PostgresJobQueue


class Paused(Database):
    """Everything is done, and nothing committed, when ``reached`` is set; ``go`` lets it be."""

    def __init__(self, dsn: str) -> None:
        super().__init__(dsn, pool_size=1, pooled=False)
        self.reached, self.go = anyio.Event(), anyio.Event()
        self._dsn_of_notices = dsn

    async def unit(self, role: Role, act: Callable[[Connection], Awaitable[Result]], *, durable: bool = True) -> Result:
        async def pausing(connection: Connection) -> Result:
            result = await act(connection)
            self.reached.set()
            await self.go.wait()
            return result

        return await super().unit(role, pausing, durable=durable)

    def tenant(self, tenant: Tenant) -> PostgresTenantJobs:
        return PostgresTenantJobs(self, self._silent(), tenant, QueueSettings())

    def queue(self, settings: QueueSettings | None = None) -> PostgresJobQueue:
        return PostgresJobQueue(self, self, self._silent(), settings or QueueSettings())

    def _silent(self) -> Notices:
        return Notices(self._dsn_of_notices, send=lambda _: checkpoint())


class Running:
    """A call that was begun and may be waiting. ``error``: what the store has told it."""

    def __init__(self, call: Callable[[], Awaitable[object]]) -> None:
        self._call = call
        self.done = anyio.Event()
        self.result: object = None
        self.error: Exception | None = None

    async def __call__(self) -> None:
        try:
            self.result = await self._call()
        except (AntiphonError, Fenced, Unavailable) as error:
            self.error = error
        self.done.set()

    async def done_or_waiting(self, admin: asyncpg.Connection[asyncpg.Record]) -> None:
        """Until it has ended, or waits for a lock in the server."""
        waiting = (
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        with anyio.fail_after(5):
            while not self.done.is_set() and not await admin.fetchval(waiting):
                await checkpoint()


@asynccontextmanager
async def paused(dsn: str) -> AsyncIterator[Paused]:
    database = Paused(dsn)
    await database.open()
    yield database
    await database.close()


async def meet(
    admin: asyncpg.Connection[asyncpg.Record],
    first: Paused,
    begun: Callable[[], Awaitable[object]],
    other: Callable[[], Awaitable[object]],
) -> tuple[Running, Running]:
    """``begun``, a call on ``first``, stops before its commit; ``other`` is called then, and both go to their end."""
    one, two = Running(begun), Running(other)
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(one)
            await first.reached.wait()
            tasks.start_soon(two)
            await two.done_or_waiting(admin)
            first.go.set()
    return one, two

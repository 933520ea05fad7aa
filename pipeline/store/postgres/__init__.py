"""The store on PostgreSQL.

database    the pool, and transactions in a role
door        TenantJobs        queue    JobQueue
outbox      Outbox            terms    Terms
turn        claims            ends     of attempts
tending     rescue and sweep  notices  word of work and of cancels
uploads     files in rows     rows     jobs out of rows
migrations  the schema
queries     the statements of the folder ``queries``
"""

from __future__ import annotations

from types import TracebackType
from typing import Self

import anyio
from anyio.abc import TaskGroup

from pipeline.jobs import Tenant
from pipeline.settings import QueueSettings
from pipeline.store.postgres.database import CHAIN, Database
from pipeline.store.postgres.door import PostgresTenantJobs
from pipeline.store.postgres.migrations import migrate
from pipeline.store.postgres.notices import Notices
from pipeline.store.postgres.outbox import PostgresOutbox
from pipeline.store.postgres.queries import SQL
from pipeline.store.postgres.queue import PostgresJobQueue
from pipeline.store.postgres.terms import PostgresTerms
from pipeline.store.postgres.uploads import keep_erasing

__all__ = ["PostgresStore", "migrate"]


class PostgresStore:
    """Expects the schema to be up to date (``migrate``). ``direct_dsn``: past the transaction pooler, for LISTEN.

    ``pool_size`` connections are for the door, and as many for the chain.
    """

    def __init__(
        self, dsn: str, direct_dsn: str | None = None, *, pool_size: int = 10, settings: QueueSettings | None = None
    ) -> None:
        # A pool each, so that however slow the lists of one tenant are, jobs begin and end beside them.
        self._door = Database(dsn, pool_size=pool_size, pooled=direct_dsn is not None)
        self._chain = Database(dsn, pool_size=pool_size, pooled=direct_dsn is not None)
        # For heartbeats alone: leases are kept though all others wait for a connection.
        self._beats = Database(dsn, pool_size=1, pooled=direct_dsn is not None)
        self._notices = Notices(direct_dsn or dsn, self._tell)
        self._settings = settings or QueueSettings()
        self._tasks: TaskGroup | None = None

    async def __aenter__(self) -> Self:
        for database in (self._door, self._chain, self._beats):
            await database.open()
        self._tasks = await anyio.create_task_group().__aenter__()
        self._tasks.start_soon(self._notices.listen)
        self._tasks.start_soon(self._notices.tell)
        self._tasks.start_soon(keep_erasing, self._chain)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._tasks is not None
        self._tasks.cancel_scope.cancel()
        try:
            # Not given the error: a task group would wrap it, and it is not the tasks' own.
            await self._tasks.__aexit__(None, None, None)
        finally:
            for database in (self._beats, self._chain, self._door):
                await database.close()

    def tenant(self, tenant: Tenant) -> PostgresTenantJobs:
        return PostgresTenantJobs(self._door, self._notices, tenant, self._settings)

    def queue(self) -> PostgresJobQueue:
        return PostgresJobQueue(self._chain, self._beats, self._notices, self._settings)

    def outbox(self) -> PostgresOutbox:
        return PostgresOutbox(self._chain)

    def terms(self) -> PostgresTerms:
        return PostgresTerms(self._chain)

    async def ping(self) -> str:
        version = await self._chain.unit(CHAIN, lambda connection: connection.fetchval(SQL["ping"]))
        return f"PostgreSQL {version}"

    async def _tell(self, channel: str) -> None:
        await self._chain.unit(CHAIN, lambda connection: connection.execute(SQL["ring"], channel))

"""What any replica does for all of them: lost jobs, due retries, what was kept for long enough, how the queue does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from uuid import UUID

from pipeline.jobs import Tenant
from pipeline.settings import QueueSettings
from pipeline.store import QueueHealth, Swept, Tended
from pipeline.store.postgres.database import CHAIN, LOGIN, Connection, Database
from pipeline.store.postgres.ends import End, settle
from pipeline.store.postgres.queries import SQL
from pipeline.store.rules import ORPHAN_SECONDS, worker_lost

RESCUED_AT_ONCE: Final = 100  # a statement each: a tenth of a second
DUE_AT_ONCE: Final = 1000
ERASED_AT_ONCE: Final = 1000  # small rows
JOBS_AT_ONCE: Final = 100  # each with a transcript, which for a long recording takes megabytes
KEY_SECONDS: Final = 86_400.0
DELIVERY_SECONDS: Final = 30 * 86_400.0  # a month of log behind a webhook that is done with


class Tending:
    """Every batch is a transaction of its own, and short; a replica passes over what another has in hand."""

    def __init__(self, database: Database, settings: QueueSettings) -> None:
        self._database, self._settings = database, settings

    async def tend(self) -> Tended:
        rescued, due = await self.rescue(every=False), 0
        while batch := await self._database.unit(CHAIN, _let_in):
            due += batch
        return Tended(rescued=rescued, due=due)

    async def rescue(self, *, every: bool) -> int:
        """Take back jobs whose lease has run out, or ``every`` one that is leased. How many."""

        async def rescue(connection: Connection) -> int:
            leases = await connection.fetch(SQL["overdue"], every, RESCUED_AT_ONCE)
            for lease in leases:
                last = lease["losses"] + 1 >= self._settings.max_losses
                end = End("lost", problem=worker_lost(lease["attempt"], last=last), retry_in=0.0)
                await settle(connection, lease["job_id"], lease["token"], end, self._settings)
            # All at once and last: a tenant's row is held from here to the commit, and taken in the order of names.
            await _wake(connection, [lease["tenant_id"] for lease in leases])
            return len(leases)

        rescued = 0
        while batch := await self._database.unit(CHAIN, rescue):
            rescued += batch
        return rescued

    async def give_back(self, tokens: Sequence[UUID]) -> None:
        """End those of these attempts that there are as if they had never been."""

        async def give_back(connection: Connection) -> None:
            leases = await connection.fetch(SQL["leased"], tokens)
            for lease in leases:
                end = End("given back", engine_seconds=0.0)
                await settle(connection, lease["job_id"], lease["token"], end, self._settings)
            await _wake(connection, [lease["tenant_id"] for lease in leases])

        await self._database.unit(CHAIN, give_back)

    async def sweep(self) -> Swept:
        repaired = await self._database.unit(CHAIN, self._repair)
        expired = await self._erase("expire_jobs", JOBS_AT_ONCE)
        await self._erase("expire_keys", ERASED_AT_ONCE, KEY_SECONDS)
        await self._erase("expire_deliveries", ERASED_AT_ONCE, DELIVERY_SECONDS)
        await self._erase("discard_orphans", ERASED_AT_ONCE, ORPHAN_SECONDS)
        return Swept(repaired=repaired, expired=expired)

    async def health(self) -> QueueHealth:
        row = await self._database.unit(CHAIN, lambda c: c.fetchrow(SQL["health"]))
        assert row is not None
        oldest = await self._database.unit(LOGIN, lambda c: c.fetchval(SQL["oldest_snapshot"]))
        return QueueHealth(**dict(row), oldest_snapshot_seconds=oldest)

    async def _repair(self, connection: Connection) -> int:
        fallen = await connection.fetch(SQL["fallen"], self._settings.max_running)
        await _wake(connection, [row["tenant_id"] for row in fallen])
        return len(fallen)

    async def _erase(self, name: str, at_once: int, *values: float) -> int:
        erased = 0
        while batch := await self._database.unit(CHAIN, lambda c: c.fetch(SQL[name], at_once, *values)):
            erased += len(batch)
        return erased


async def _let_in(connection: Connection) -> int:
    due = await connection.fetch(SQL["due"], DUE_AT_ONCE)
    await _wake(connection, [row["tenant_id"] for row in due])
    return len(due)


async def _wake(connection: Connection, tenants: list[Tenant]) -> None:
    if tenants:
        await connection.execute(SQL["wake"], tenants)

"""A claim as one transaction: whose turn it is, which job, and out of the turn whoever has no more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import asyncpg
from asyncpg import Record

from pipeline.jobs import Tenant
from pipeline.store.postgres.database import Connection
from pipeline.store.postgres.queries import SQL
from pipeline.store.rules import ALONE_SECONDS

WAIT_SECONDS: Final = 0.2  # for a tenant that another claim holds; one takes a hundredth of that


@dataclass(frozen=True, slots=True)
class Taker:
    """Who claims, and ``max_running`` of a tenant whose terms do not say."""

    token: UUID
    replica: str
    lease_seconds: float
    max_running: int | None


async def next_tenant(connection: Connection, besides: Sequence[Tenant]) -> Tenant | None:
    """The tenant that is served next, locked until the end of the transaction; ``None``: nobody has work.

    Where other claims hold all that are ready, one of them is waited for: few tenants must not look like none.
    """
    free: Tenant | None = await connection.fetchval(SQL["turn"], besides)
    return free or await _released(connection, besides)


async def take(connection: Connection, taker: Taker, tenant: Tenant, job: UUID | None = None) -> Record | None:
    """Lease the head job of a tenant that is locked, or this ``job`` of its. ``None``: it has none that it may run."""
    values = (taker.token, taker.replica, taker.lease_seconds, taker.max_running, job)
    row = await connection.fetchrow(SQL["claim"], tenant, *values)
    assert row is not None
    # Locked first and looked at again in a later statement, which sees what was committed in between.
    if row["spent"] and await connection.fetchval(SQL["lock_turn"], tenant):
        await connection.execute(SQL["leave_turn"], tenant, taker.max_running)
    return row if row["id"] else None


async def take_alone(connection: Connection, taker: Taker, *, idle: bool) -> Record | None:
    """Lease the job that has lost a worker and been ready for longest; of two replicas at work one may at a time."""
    if not idle and not await connection.fetchval(SQL["lock_alone"]):
        return None
    seconds = 0.0 if idle else ALONE_SECONDS
    found = await connection.fetchrow(SQL["alone"], seconds, not idle, taker.max_running)
    return found and await take(connection, taker, found["tenant_id"], found["id"])


async def _released(connection: Connection, besides: Sequence[Tenant]) -> Tenant | None:
    try:
        async with connection.transaction():
            await connection.execute(SQL["limit_waiting"], f"{WAIT_SECONDS:g}s")
            tenant: Tenant | None = await connection.fetchval(SQL["await_turn"], besides)
            await connection.execute(SQL["limit_waiting"], "0")
            return tenant
    except asyncpg.LockNotAvailableError:
        return None

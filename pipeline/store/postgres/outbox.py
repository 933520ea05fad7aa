"""The webhooks' face on PostgreSQL: events that were written when their jobs ended."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from asyncpg import Record

from pipeline.jobs import JobStatus, Tenant
from pipeline.store import Delivery
from pipeline.store.postgres.database import CHAIN, Connection, Database
from pipeline.store.postgres.queries import SQL
from pipeline.store.rules import event


class PostgresOutbox:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def due(self, *, limit: int, lease_seconds: float, besides: Collection[Tenant] = ()) -> Sequence[Delivery]:
        asked = (limit, lease_seconds, list(besides))
        rows = await self._database.unit(CHAIN, lambda c: c.fetch(SQL["due_deliveries"], *asked))
        return [_delivery_of(row) for row in rows]

    async def tried(
        self, delivery: Delivery, *, seconds: float, status: int | None, error: str | None, retry_in: float | None
    ) -> None:
        async def tell(connection: Connection) -> None:
            await connection.execute(SQL["log_try"], delivery.id, delivery.tries, seconds, status, error)
            if retry_in is None:
                await connection.execute(SQL["try_no_more"], delivery.id, status)
            else:
                await connection.execute(SQL["try_again"], delivery.id, retry_in)

        await self._database.unit(CHAIN, tell)


def _delivery_of(row: Record) -> Delivery:
    return Delivery(
        id=row["id"],
        tenant=Tenant(row["tenant_id"]),
        job=row["job_id"],
        url=row["url"],
        body=event(row["job_id"], JobStatus(row["status"]), row["external_id"], row["created_at"]),
        tries=row["tries"],
    )

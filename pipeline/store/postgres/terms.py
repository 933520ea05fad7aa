"""The operator's face on PostgreSQL: what tenants may have."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.jobs import Tenant
from pipeline.store import TenantTerms
from pipeline.store.postgres.database import CHAIN, Connection, Database
from pipeline.store.postgres.queries import SQL


class PostgresTerms:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def list(self) -> Sequence[TenantTerms]:
        rows = await self._database.unit(CHAIN, lambda c: c.fetch(SQL["list_terms"]))
        return [
            TenantTerms(Tenant(row["tenant_id"]), row["weight"], row["max_running"], row["max_pending"]) for row in rows
        ]

    async def set(self, terms: TenantTerms) -> None:
        async def put(connection: Connection) -> None:
            values = (terms.tenant, terms.weight, terms.max_running, terms.max_pending)
            await connection.execute(SQL["set_terms"], *values)
            await connection.execute(SQL["wake"], [terms.tenant])  # it may run more than before

        await self._database.unit(CHAIN, put)

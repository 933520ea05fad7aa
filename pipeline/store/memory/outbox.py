"""The webhooks' face in memory."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

from anyio.lowlevel import checkpoint

from pipeline.jobs import Tenant
from pipeline.store import Delivery
from pipeline.store.memory.rows import Try
from pipeline.store.memory.tables import Tables


class MemoryOutbox:
    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    async def due(self, *, limit: int, lease_seconds: float, besides: Collection[Tenant] = ()) -> Sequence[Delivery]:
        await checkpoint()
        now = self._tables.now()
        due = sorted(
            (row for row in self._tables.deliveries.values() if row.next_try_at <= now and row.tenant not in besides),
            key=lambda row: row.next_try_at,
        )[:limit]
        for row in due:
            row.tries += 1
            row.next_try_at = now + lease_seconds
        return [Delivery(row.id, row.tenant, row.job, row.url, row.body, row.tries) for row in due if row.url]

    async def tried(
        self, delivery: Delivery, *, seconds: float, status: int | None, error: str | None, retry_in: float | None
    ) -> None:
        await checkpoint()
        row = self._tables.deliveries.get(delivery.id)
        if row is None:
            return
        row.log.append(Try(delivery.tries, seconds, status, error))
        if retry_in is not None:
            row.next_try_at = self._tables.now() + retry_in
        else:
            row.url, row.next_try_at = None, math.inf

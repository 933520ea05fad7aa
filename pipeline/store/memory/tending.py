"""What keeps the queue in memory going: leases that ran out, retries that are due, and what was kept long enough."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from pipeline.store import Swept, Tended
from pipeline.store.memory.ends import lose
from pipeline.store.memory.tables import Tables
from pipeline.store.rules import ORPHAN_SECONDS

DAY: Final = 86_400.0  # seconds that an idempotency key holds
MONTH: Final = 30 * DAY  # seconds that a delivery's log is kept


def tend(tables: Tables) -> Tended:
    return Tended(rescued=rescue(tables, until=tables.now()), due=_let_in(tables))


def rescue(tables: Tables, *, until: float) -> int:
    """Take back the jobs whose lease runs no longer than ``until``."""
    late = [(row, row.lease) for row in tables.rows.values() if row.lease and row.lease.until <= until]
    for row, lease in late:
        lose(tables, row, lease)
    tables.wake(*(row.job.tenant for row, _ in late))
    return len(late)


def sweep(tables: Tables) -> Swept:
    now = tables.now()
    expired = [row for row in tables.rows.values() if row.expires_at <= now]
    for row in expired:
        tables.erase(row)
    for key in [key for key, made in tables.keys.items() if made.made_at <= now - DAY]:
        del tables.keys[key]
    old = [row.id for row in tables.deliveries.values() if row.url is None and row.made_at <= now - MONTH]
    for delivery in old:
        del tables.deliveries[delivery]
    tables.forget([i for i, file in tables.files.items() if not file.job and file.touched <= now - ORPHAN_SECONDS])
    return Swept(repaired=_repair(tables), expired=len(expired))


def _let_in(tables: Tables) -> int:
    """Retries whose time has come."""
    now = tables.now()
    due = [row for row in tables.rows.values() if row.job.next_attempt_at is not None and row.ready_at <= now]
    for row in due:
        row.ready_at, row.job = now, replace(row.job, next_attempt_at=None)
    tables.wake(*(row.job.tenant for row in due))
    return len(due)


def _repair(tables: Tables) -> int:
    fallen = [place for place in tables.turns.places.values() if not place.ready and tables.turns.may_run(place)]
    tables.wake(*(place.terms.tenant for place in fallen))
    return len(fallen)

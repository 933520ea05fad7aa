"""How the queue in memory does, all tenants together."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import quantiles
from typing import Final

from pipeline.jobs import JobStatus
from pipeline.store import QueueHealth
from pipeline.store.memory.rows import Attempt, JobRow, Lease
from pipeline.store.memory.tables import Tables

LATELY: Final = 300.0  # seconds


def pace(tables: Tables) -> float:
    """Jobs begun a second, lately."""
    return len(list(_begun(tables))) / LATELY


def health(tables: Tables) -> QueueHealth:
    now, rows = tables.now(), list(tables.rows.values())
    ready = [row.ready_at for row in rows if row.claimable]
    leases = [row.lease for row in rows if row.lease]
    ended = [(row, attempt) for row in rows for attempt in row.attempts.values() if attempt.ended_at > now - LATELY]
    begun = list(_begun(tables))
    half, most = _percentiles(sorted(each.waited_seconds for each in begun))
    return QueueHealth(
        pending=len(ready),
        waiting=sum(row.job.next_attempt_at is not None for row in rows),
        running=len(leases),
        tenants=len({row.job.tenant for row in rows if not row.job.status.ended}),
        oldest_seconds=now - min(ready, default=now),
        late_seconds=max((now - lease.until for lease in leases if lease.until < now), default=0.0),
        started=len(begun),
        retried=sum(attempt.outcome == "failed" and not _for_good(row, attempt) for row, attempt in ended),
        lost=sum(attempt.outcome == "lost" for _, attempt in ended),
        failed=sum(_for_good(row, attempt) for row, attempt in ended),
        wait_seconds_p50=half,
        wait_seconds_p99=most,
        oldest_snapshot_seconds=0.0,
    )


def _begun(tables: Tables) -> Iterator[Lease | Attempt]:
    """What was claimed lately, whether it has ended or not."""
    since = tables.now() - LATELY
    for row in tables.rows.values():
        if row.lease and row.lease.claimed_at > since:
            yield row.lease
        yield from (attempt for attempt in row.attempts.values() if attempt.claimed_at > since)


def _for_good(row: JobRow, attempt: Attempt) -> bool:
    """Whether this attempt was the one that its job failed with."""
    return row.job.status is JobStatus.FAILED and attempt is list(row.attempts.values())[-1]


def _percentiles(waits: list[float]) -> tuple[float, float]:
    """The 50th and the 99th, between two values if need be."""
    if len(waits) < 2:
        return (waits[0], waits[0]) if waits else (0.0, 0.0)
    cuts = quantiles(waits, n=100, method="inclusive")
    return cuts[49], cuts[98]

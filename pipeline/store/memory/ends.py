"""How an attempt ends in memory: settled by its claim, or lost with its worker; once, and in one way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from pipeline.claim import Claim
from pipeline.jobs import JobStatus
from pipeline.store import Fenced
from pipeline.store.memory.rows import Attempt, JobRow, Lease
from pipeline.store.memory.tables import Tables
from pipeline.store.memory.turns import Charge
from pipeline.store.rules import worker_lost

Fate = Callable[[JobRow], None]
"""What becomes of the job."""


def held(tables: Tables, claim: Claim) -> tuple[JobRow, Lease]:
    """The fence: the claim's job and lease, or ``Fenced``."""
    row = tables.rows.get(claim.job.id)
    if row is None or row.lease is None or row.lease.token != claim.token:
        raise Fenced
    return row, row.lease


def settle(tables: Tables, claim: Claim, outcome: str, fate: Fate) -> None:
    """End the attempt, unless it has ended already in this very way. Its tenant is charged what it has cost."""
    try:
        row, lease = held(tables, claim)
    except Fenced:
        if _settled(tables, claim, outcome):
            return
        raise
    lease.progress, lease.engine_seconds = claim.progress, claim.engine_seconds
    _charge(tables, row, lease)
    _close(tables, row, lease, outcome, fate)
    tables.wake(row.job.tenant)


def lose(tables: Tables, row: JobRow, lease: Lease) -> None:
    """The worker is gone. What was charged for it stands, unless it has told of more. A job that it had not begun is
    none the worse for it."""
    if lease.engine_seconds > lease.charged:
        _charge(tables, row, lease)
    if lease.waits:
        _close(tables, row, lease, "given back", lambda row: again(tables, row, attempt=row.job.attempt - 1))
    else:
        _close(tables, row, lease, "lost", lambda row: _lost(tables, row))


def break_up(tables: Tables, row: JobRow, lease: Lease) -> None:
    """Its job is deleted: what the worker has told of is what the attempt has cost."""
    _charge(tables, row, lease)
    _note(tables, row, lease, "cancelled")


def again(tables: Tables, row: JobRow, *, seconds: float = 0.0, **changes: Any) -> None:
    """The job is pending; not to be claimed before so many ``seconds``, and then only once ``tend`` has let it in."""
    row.ready_at = tables.now() + seconds
    row.job = replace(
        row.job,
        status=JobStatus.PENDING,
        started_at=None,
        next_attempt_at=datetime.now(UTC) + timedelta(seconds=seconds) if seconds > 0 else None,
        progress=row.job.progress.at("pending"),
        **changes,
    )


def _settled(tables: Tables, claim: Claim, outcome: str) -> bool:
    """A job whose end was asked for has one way to end, whatever its worker calls it."""
    row = tables.rows.get(claim.job.id)
    if row is None or claim.token not in row.attempts:
        return False
    return row.attempts[claim.token].outcome in (outcome, "cancelled" if row.cancel_requested else outcome)


def _close(tables: Tables, row: JobRow, lease: Lease, outcome: str, fate: Fate) -> None:
    if row.cancel_requested:
        outcome, fate = "cancelled", partial(tables.end, status=JobStatus.CANCELLED)
    row.job = replace(row.job, progress=lease.progress)
    _note(tables, row, lease, outcome)
    fate(row)


def _note(tables: Tables, row: JobRow, lease: Lease, outcome: str) -> None:
    row.lease = None
    row.attempts[lease.token] = Attempt(
        lease.claimed_at, tables.now(), lease.waited_seconds, outcome, lease.engine_seconds
    )


def _charge(tables: Tables, row: JobRow, lease: Lease) -> None:
    charge = Charge(lease.engine_seconds - lease.charged, lease.engine_seconds)
    tables.turns.place(row.job.tenant).charges.append(charge)


def _lost(tables: Tables, row: JobRow) -> None:
    losses = row.job.losses + 1
    last = losses >= tables.settings.max_losses
    problem = worker_lost(row.job.attempt, last=last)
    if last:
        tables.end(row, JobStatus.FAILED, error=problem, losses=losses)
    else:
        again(tables, row, last_error=problem, losses=losses)

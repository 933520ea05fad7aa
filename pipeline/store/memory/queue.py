"""The chain's face in memory: who took a job, who has it, and how it ended."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from uuid import UUID, uuid4

import anyio
from anyio.lowlevel import checkpoint

from pipeline.claim import Claim
from pipeline.jitter import jittered
from pipeline.jobs import JobStatus, Problem, Tenant, Usage
from pipeline.store import Fenced, QueueHealth, Renewal, Swept, Tended
from pipeline.store.memory import tending
from pipeline.store.memory import uploads as files
from pipeline.store.memory.ends import again, held, settle
from pipeline.store.memory.health import health
from pipeline.store.memory.rows import JobRow, Lease
from pipeline.store.memory.tables import Tables
from pipeline.store.memory.turns import Place
from pipeline.store.rules import ALONE_SECONDS, unite
from pipeline.transcript import Transcript


class MemoryJobQueue:
    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    async def claim(
        self,
        *,
        replica: str,  # noqa: ARG002  # there is only one
        lease_seconds: float,
        besides: Collection[Tenant] = (),
    ) -> Claim | None:
        await checkpoint()
        turn = self._tables.turns.next(besides)
        return turn and self._take(*turn, lease_seconds)

    async def claim_alone(
        self,
        *,
        replica: str,  # noqa: ARG002  # there is only one
        lease_seconds: float,
        idle: bool,
    ) -> Claim | None:
        await checkpoint()
        now = self._tables.now()
        if not idle and any(row.lease and row.lease.waits for row in self._tables.rows.values()):
            return None
        turn = self._tables.turns.next_alone(ready_before=now if idle else now - ALONE_SECONDS)
        return turn and self._take(*turn, lease_seconds)

    async def begin(self, claim: Claim) -> None:
        await checkpoint()
        _, lease = held(self._tables, claim)
        lease.waits = False

    async def renew(self, claims: Sequence[Claim], *, lease_seconds: float) -> Renewal:
        await checkpoint()
        renewed = list(self._held(claims))
        for _, _, lease in renewed:
            lease.until = self._tables.now() + lease_seconds
        cancelled = frozenset(lease.token for _, row, lease in renewed if row.cancel_requested)
        return Renewal(frozenset(lease.token for _, _, lease in renewed) - cancelled, cancelled)

    async def report(self, claims: Sequence[Claim]) -> None:
        await checkpoint()
        for claim, _, lease in self._held(claims):
            lease.progress, lease.engine_seconds = claim.progress, claim.engine_seconds

    async def keep(self, claim: Claim, drafts: Mapping[bytes, str]) -> None:
        await checkpoint()
        row, _ = held(self._tables, claim)
        row.checkpoints.update(drafts)

    async def kept(self, claim: Claim) -> Mapping[bytes, str]:
        await checkpoint()
        row = self._tables.rows.get(claim.job.id)
        return dict(row.checkpoints) if row else {}

    async def commit(self, claim: Claim, transcript: Transcript, usage: Usage) -> None:
        def complete(row: JobRow) -> None:
            row.transcript = transcript
            progress = claim.progress.at("committing", 1.0)
            changes = {"progress": progress, "usage": usage, "warnings": transcript.warnings}
            self._tables.end(row, JobStatus.COMPLETED, **changes)

        await checkpoint()
        settle(self._tables, claim, "completed", complete)

    async def fail(self, claim: Claim, problem: Problem, *, retry_in: float | None) -> None:
        def break_off(row: JobRow) -> None:
            if retry_in is not None and row.job.attempt - row.job.losses < row.job.max_attempts:
                again(self._tables, row, seconds=retry_in, last_error=problem)
            else:
                self._tables.end(row, JobStatus.FAILED, error=problem)

        await checkpoint()
        settle(self._tables, claim, "failed", break_off)

    async def give_back(self, claim: Claim, *, retry_in: float = 0.0) -> None:
        def put_back(row: JobRow) -> None:
            again(self._tables, row, seconds=retry_in, attempt=row.job.attempt - 1)

        await checkpoint()
        settle(self._tables, claim, "given back", put_back)

    async def cancel(self, claim: Claim) -> None:
        await checkpoint()
        settle(self._tables, claim, "cancelled", partial(self._tables.end, status=JobStatus.CANCELLED))

    async def tend(self) -> Tended:
        await checkpoint()
        return tending.tend(self._tables)

    async def sweep(self) -> Swept:
        await checkpoint()
        return tending.sweep(self._tables)

    async def void_leases(self) -> int:
        await checkpoint()
        return tending.rescue(self._tables, until=float("inf"))

    async def work(self, *, poll_seconds: float) -> None:
        with anyio.move_on_after(jittered(poll_seconds)):
            await self._tables.work.wait()

    async def cancels(self) -> None:
        await self._tables.cancels.wait()

    def read_upload(self, claim: Claim, upload: UUID) -> AsyncIterator[bytes]:
        return files.send(self._tables, claim, upload)

    async def health(self) -> QueueHealth:
        await checkpoint()
        return health(self._tables)

    def _take(self, place: Place, row: JobRow, lease_seconds: float) -> Claim:
        row.job = replace(row.job, status=JobStatus.RUNNING, attempt=row.job.attempt + 1, started_at=datetime.now(UTC))
        row.lease = self._lease(row, lease_seconds, charged=place.usual_seconds)
        self._tables.turns.served(place)
        return Claim(
            replace(row.job, request=unite(row.job.request, row.secrets)),
            token=row.lease.token,
            weight=place.terms.weight,
            resumes=bool(row.checkpoints),
            trace=row.trace,
            progress=row.job.progress,
        )

    def _lease(self, row: JobRow, seconds: float, *, charged: float) -> Lease:
        now = self._tables.now()
        return Lease(
            token=uuid4(),
            until=now + seconds,
            claimed_at=now,
            waited_seconds=now - row.ready_at,
            charged=charged,
            waits=row.job.losses > 0,
            progress=row.job.progress,
        )

    def _held(self, claims: Sequence[Claim]) -> Iterator[tuple[Claim, JobRow, Lease]]:
        """Those of the claims whose lease is still theirs."""
        for claim in claims:
            try:
                yield claim, *held(self._tables, claim)
            except Fenced:
                continue

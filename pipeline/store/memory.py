"""The store without a database: one process, nothing kept when it ends, the same rules.

It serves ``antiphon transcribe --once`` and the tests of everything above the store. Every call passes a checkpoint
first and then changes all it changes at once, so a cancelled call has changed nothing.
"""

from __future__ import annotations

import math
import random
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, Self
from uuid import UUID, uuid4

import anyio
from anyio.lowlevel import checkpoint

from pipeline.claim import Claim
from pipeline.errors import NotFound
from pipeline.jobs import PRIORITIES, Job, JobRequest, JobStatus, Problem, Progress, Tenant, Usage
from pipeline.store import Fenced, Renewal
from pipeline.store.rules import CHUNK_BYTES, ORPHAN_SECONDS, Secrets, divide, unite, worker_lost
from pipeline.transcript import Transcript


@dataclass(slots=True)
class _Lease:
    token: UUID
    until: float
    progress: Progress


@dataclass(slots=True)
class _Row:
    """A job and what only the store knows of it. ``outcomes``: how each ended attempt ended, by its token."""

    job: Job
    secrets: Secrets
    trace: Mapping[str, str]
    ready_at: float = -math.inf
    lease: _Lease | None = None
    outcomes: dict[UUID, str] = field(default_factory=dict)
    transcript: Transcript | None = None


@dataclass(slots=True)
class _File:
    tenant: Tenant
    touched: float
    chunks: list[bytes] = field(default_factory=list)
    received: bool = False
    job: UUID | None = None


class MemoryStore:
    """``clock`` tells seconds that only go forward; leases, retries and orphans are counted by it."""

    def __init__(self, *, max_attempts: int = 3, clock: Callable[[], float] = anyio.current_time) -> None:
        self.max_attempts = max_attempts
        self.now = clock
        self.rows: dict[UUID, _Row] = {}
        self.files: dict[UUID, _File] = {}
        self._news = anyio.Event()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def tenant(self, tenant: Tenant) -> MemoryTenantJobs:
        return MemoryTenantJobs(self, tenant)

    def queue(self) -> MemoryJobQueue:
        return MemoryJobQueue(self)

    async def ping(self) -> str:
        await checkpoint()
        return "memory"

    def ring(self) -> None:
        self._news.set()

    async def rung(self) -> None:
        await self._news.wait()
        self._news = anyio.Event()

    def forget(self, uploads: Sequence[UUID]) -> None:
        for upload in uploads:
            self.files.pop(upload, None)


class MemoryUpload:
    def __init__(self, file: _File, upload: UUID, clock: Callable[[], float]) -> None:
        self._file, self._id, self._now = file, upload, clock

    @property
    def id(self) -> UUID:
        return self._id

    async def write(self, chunk: bytes) -> None:
        await checkpoint()
        self._file.touched = self._now()
        self._file.chunks += (bytes(chunk[at : at + CHUNK_BYTES]) for at in range(0, len(chunk), CHUNK_BYTES))


class MemoryTenantJobs:
    def __init__(self, store: MemoryStore, tenant: Tenant) -> None:
        self._store, self._tenant = store, tenant

    @asynccontextmanager
    async def upload(self) -> AsyncGenerator[MemoryUpload, None]:
        await checkpoint()
        upload, file = uuid4(), _File(self._tenant, self._store.now())
        self._store.files[upload] = file
        try:
            yield MemoryUpload(file, upload, self._store.now)
        except BaseException:
            self._store.forget([upload])
            raise
        file.received = True

    async def submit(
        self, request: JobRequest, *, uploads: Sequence[UUID] = (), trace: Mapping[str, str] | None = None
    ) -> Job:
        await checkpoint()
        files = {upload: file for upload in uploads if (file := self._loose(upload)) and file.received}
        if len(files) != len(uploads):
            raise NotFound("One of the uploads is not there; upload the file again.")
        shown, secrets = divide(request)
        job = Job(
            id=uuid4(),
            tenant=self._tenant,
            request=shown,
            created_at=datetime.now(UTC),
            uploads=tuple(uploads),
            max_attempts=self._store.max_attempts,
        )
        for file in files.values():
            file.job = job.id
        self._store.rows[job.id] = _Row(job, secrets, dict(trace or {}))
        self._store.ring()
        return job

    async def discard(self, uploads: Sequence[UUID]) -> None:
        await checkpoint()
        self._store.forget([upload for upload in uploads if self._loose(upload)])

    async def get(self, job_id: UUID) -> Job:
        await checkpoint()
        row = self._row(job_id)
        return replace(row.job, progress=row.lease.progress) if row.lease else row.job

    async def transcript(self, job_id: UUID) -> Transcript | None:
        await checkpoint()
        return self._row(job_id).transcript

    def _row(self, job_id: UUID) -> _Row:
        row = self._store.rows.get(job_id)
        if row is None or row.job.tenant != self._tenant:
            raise NotFound(f"There is no job {job_id}.")
        return row

    def _loose(self, upload: UUID) -> _File | None:
        """This tenant's upload, if no job has it yet."""
        file = self._store.files.get(upload)
        return file if file and file.tenant == self._tenant and file.job is None else None


class MemoryJobQueue:
    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    async def claim(self, *, replica: str, lease_seconds: float) -> Claim | None:  # noqa: ARG002  # there is only one
        await checkpoint()
        if (row := self._next()) is None:
            return None
        row.job = replace(
            row.job,
            status=JobStatus.RUNNING,
            attempt=row.job.attempt + 1,
            started_at=datetime.now(UTC),
            next_attempt_at=None,
        )
        row.lease = _Lease(uuid4(), self._store.now() + lease_seconds, row.job.progress)
        job = replace(row.job, request=unite(row.job.request, row.secrets))
        return Claim(job, token=row.lease.token, trace=row.trace, progress=job.progress)

    async def renew(self, claims: Sequence[Claim], *, lease_seconds: float) -> Renewal:
        await checkpoint()
        held = self._held(claims)
        for _, lease in held:
            lease.until = self._store.now() + lease_seconds
        return Renewal(kept=frozenset(lease.token for _, lease in held), cancelled=frozenset())

    async def report(self, claims: Sequence[Claim]) -> None:
        await checkpoint()
        for claim, lease in self._held(claims):
            lease.progress = claim.progress

    async def commit(self, claim: Claim, transcript: Transcript, usage: Usage) -> None:
        await checkpoint()
        if row := self._settle(claim, "completed"):
            row.transcript = transcript
            progress = claim.progress.at("committing", 1.0)
            self._end(row, JobStatus.COMPLETED, progress=progress, usage=usage, warnings=transcript.warnings)

    async def fail(self, claim: Claim, problem: Problem, *, retry_in: float | None) -> None:
        await checkpoint()
        if row := self._settle(claim, "failed"):
            self._fail(row, problem, claim.progress, retry_in)

    async def give_back(self, claim: Claim) -> None:
        await checkpoint()
        if row := self._settle(claim, "given back"):
            self._again(row, claim.progress, attempt=row.job.attempt - 1)
            self._store.ring()

    async def cancel(self, claim: Claim) -> None:
        await checkpoint()
        if row := self._settle(claim, "cancelled"):
            self._end(row, JobStatus.CANCELLED, progress=claim.progress)

    async def rescue(self) -> int:
        await checkpoint()
        now = self._store.now()
        orphaned = [i for i, file in self._store.files.items() if not file.job and file.touched <= now - ORPHAN_SECONDS]
        self._store.forget(orphaned)
        return self._rescue(until=now)

    async def void_leases(self) -> int:
        await checkpoint()
        return self._rescue(until=math.inf)

    async def work(self, *, poll_seconds: float) -> None:
        with anyio.move_on_after(poll_seconds * random.uniform(0.8, 1.2)):  # noqa: S311  # spreads polls, no secret
            await self._store.rung()

    async def read_upload(self, claim: Claim, upload: UUID) -> AsyncIterator[bytes]:
        number = 0
        while True:
            await checkpoint()
            file = self._store.files.get(upload)
            if file is None or file.job != claim.job.id:
                raise Fenced
            if number == len(file.chunks):
                return
            yield file.chunks[number]
            number += 1

    def _next(self) -> _Row | None:
        """Who is served next: the highest priority, and then whoever came first (rows are kept in that order)."""
        now = self._store.now()
        ready = (r for r in self._store.rows.values() if r.job.status is JobStatus.PENDING and r.ready_at <= now)
        return max(ready, key=lambda row: PRIORITIES[row.job.request.priority], default=None)

    def _held(self, claims: Sequence[Claim]) -> list[tuple[Claim, _Lease]]:
        """Those of the claims whose lease is still theirs."""
        rows = ((claim, self._store.rows.get(claim.job.id)) for claim in claims)
        return [(c, row.lease) for c, row in rows if row and row.lease and row.lease.token == c.token]

    def _settle(self, claim: Claim, outcome: str) -> _Row | None:
        """Take the lease away. ``None``: this very outcome was settled before, and nothing is left to do."""
        row = self._store.rows.get(claim.job.id)
        if row is None or not self._held([claim]):
            if row and row.outcomes.get(claim.token) == outcome:
                return None
            raise Fenced
        row.lease = None
        row.outcomes[claim.token] = outcome
        return row

    def _rescue(self, *, until: float) -> int:
        expired = [(r, r.lease) for r in self._store.rows.values() if r.lease and r.lease.until <= until]
        for row, lease in expired:
            row.lease = None
            row.outcomes[lease.token] = "lost"
            last = row.job.attempt >= row.job.max_attempts
            self._fail(row, worker_lost(row.job.attempt, last=last), lease.progress, retry_in=0.0)
        if expired:
            self._store.ring()
        return len(expired)

    def _fail(self, row: _Row, problem: Problem, progress: Progress, retry_in: float | None) -> None:
        if retry_in is None or row.job.attempt >= row.job.max_attempts:
            self._end(row, JobStatus.FAILED, progress=progress, error=problem)
            return
        row.ready_at = self._store.now() + retry_in
        next_attempt_at = datetime.now(UTC) + timedelta(seconds=retry_in)
        self._again(row, progress, last_error=problem, next_attempt_at=next_attempt_at)

    def _again(self, row: _Row, progress: Progress, **changes: Any) -> None:
        changes = {"status": JobStatus.PENDING, "started_at": None, "progress": progress.at("pending"), **changes}
        row.job = replace(row.job, **changes)

    def _end(self, row: _Row, status: JobStatus, **changes: Any) -> None:
        self._store.forget(row.job.uploads)
        row.secrets = Secrets()
        row.job = replace(row.job, status=status, completed_at=datetime.now(UTC), uploads=(), **changes)

"""The faces of the store: one that knows its tenant, one that moves jobs for all of them, one that sends their news.

A route is given ``TenantJobs`` and has no way to name another tenant; a stage is given ``JobQueue`` and cannot list.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from uuid import UUID

from pipeline.claim import Claim
from pipeline.jobs import Job, JobRequest, JobStatus, Problem, Tenant, Usage
from pipeline.transcript import Transcript


class Unavailable(Exception):
    """The store cannot be reached right now; the same call may work later."""


class Fenced(Exception):
    """This claim's lease is gone: somebody else owns the job or has finished it. Nothing was written."""


class KeyUsed(Exception):
    """A job was made with this idempotency key before."""


class Upload(Protocol):
    """One uploaded file on its way in; what is not submitted with a job is erased again."""

    @property
    def id(self) -> UUID: ...

    async def write(self, chunk: bytes) -> None:
        """Append. Chunks may be of any size; the store never holds the whole file in memory."""


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """What a client calls one submit, and the digest of what it sent. Kept for a day, or until its job is deleted."""

    key: str
    digest: bytes


@dataclass(frozen=True, slots=True)
class Place:
    """Where a page of a list begins: behind the job with this time and id."""

    created_at: datetime
    id: UUID


@dataclass(frozen=True, slots=True)
class Listing:
    """Which of a tenant's jobs, newest first. ``created_after`` and ``created_before`` are exclusive."""

    limit: int
    after: Place | None = None
    status: JobStatus | None = None
    external_id: str | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None


@dataclass(frozen=True, slots=True)
class Standing:
    """A tenant's own place in the queue. ``oldest_seconds``: how long its oldest waiting job has been ready.

    ``ahead``: other tenants whose turn comes before its own, as it looks now; ``starts_in`` seconds by how fast jobs
    were begun lately, ``None`` where none was. Both ``None`` where it is not in the turn: nothing of it waits, or as
    many of its jobs run as may. They alone tell of the whole queue, and so depend on others.
    """

    pending: int
    running: int
    oldest_seconds: float | None = None
    ahead: int | None = None
    starts_in: float | None = None


class TenantJobs(Protocol):
    """The door's face. Everything it sees and makes belongs to the one tenant it was made for."""

    def upload(self) -> AbstractAsyncContextManager[Upload]:
        """Receive a file. Leaving the block with an error erases what arrived."""

    async def submit(
        self,
        request: JobRequest,
        *,
        uploads: Sequence[UUID] = (),
        trace: Mapping[str, str] | None = None,
        key: IdempotencyKey | None = None,
    ) -> Job:
        """Queue a job. ``uploads`` become its media and are erased when it ends.

        Raises ``KeyUsed`` when there is a job of this key, and ``pipeline.errors.QuotaExceeded`` when as many jobs of
        this tenant wait as may.
        """

    async def made_with(self, key: IdempotencyKey) -> Job | None:
        """The job that was made with this key, as it was then. Raises ``pipeline.errors.IdempotencyMismatch`` when it
        was made of something else, and ``JobGone`` when it was kept for its retention only."""

    async def discard(self, uploads: Sequence[UUID]) -> None:
        """Erase uploads that no job was made of."""

    async def get(self, job_id: UUID) -> Job:
        """Raises ``pipeline.errors.NotFound`` alike for a job of another tenant and for none."""

    async def transcript(self, job_id: UUID) -> Transcript | None:
        """The transcript of a completed job, else ``None``. Raises ``NotFound`` like ``get``."""

    async def list(self, listing: Listing) -> Sequence[Job]:
        """At most ``listing.limit`` jobs."""

    async def cancel(self, job_id: UUID) -> Job:
        """A waiting job is cancelled at once; a running one as soon as its worker hears of it. The job as it is then.

        Raises ``NotFound`` like ``get``, and ``pipeline.errors.JobFinished`` for one that is completed or failed.
        """

    async def delete(self, job_id: UUID) -> None:
        """Erase the job and all that was made of it, also while it runs, and what is still to be told of it; its usage
        stays. Raises ``NotFound``."""

    async def standing(self) -> Standing: ...


@dataclass(frozen=True, slots=True)
class Renewal:
    """The heartbeat's answer, which is the truth: a claim whose token is in neither set has lost its lease."""

    kept: frozenset[UUID]
    cancelled: frozenset[UUID]


@dataclass(frozen=True, slots=True)
class Tended:
    """Jobs taken back from silent workers, and retries whose time had come."""

    rescued: int = 0
    due: int = 0


@dataclass(frozen=True, slots=True)
class Swept:
    """``repaired``: tenants that had fallen out of the turn though they had work, which is a fault. ``expired``: jobs
    that were kept for as long as they were to be."""

    repaired: int = 0
    expired: int = 0


@dataclass(frozen=True, slots=True)
class QueueHealth:
    """All tenants together, at one moment; ``started``, ``retried``, ``lost``, ``failed`` and waits of five minutes.

    ``pending`` are ready, ``waiting`` have a retry ahead of them. ``late_seconds``: how far the most overdue lease has
    run out. ``oldest_snapshot_seconds``: of any transaction in the database; old ones slow every claim.
    """

    pending: int
    waiting: int
    running: int
    tenants: int
    oldest_seconds: float
    late_seconds: float
    started: int
    retried: int
    lost: int
    failed: int
    wait_seconds_p50: float
    wait_seconds_p99: float
    oldest_snapshot_seconds: float


class JobQueue(Protocol):
    """The chain's face. Every settling call carries the claim's token and raises ``Fenced`` when it no longer holds.

    Settling twice with one token is the same as once, so a call whose outcome is unknown can be repeated. A job that
    was cancelled meanwhile ends as that, however it is settled. Every end of a job writes its usage, and the event for
    its webhook, in the same transaction.
    """

    async def claim(self, *, replica: str, lease_seconds: float, besides: Collection[Tenant] = ()) -> Claim | None:
        """Lease the next job, or ``None`` when nothing is ready. Counts an attempt.

        Next is the tenant that has cost least over its weight, none of ``besides``; of its jobs that of the highest
        priority, and of those the oldest. Nothing is awaited after the lease is certain, so a claim that was taken is a
        claim that is returned. Jobs with ``losses`` are no part of this.
        """

    async def claim_alone(self, *, replica: str, lease_seconds: float, idle: bool) -> Claim | None:
        """Lease the job with ``losses`` that has been ready for longest. It is to be run alone, not before ``begin``.

        A replica that is not ``idle`` gets one that has been ready for a minute, and only while no other lease waits.
        """

    async def begin(self, claim: Claim) -> None:
        """Work on a job that has lost a worker begins only now; until then a lost lease is none of its losses.

        Raises ``Fenced``.
        """

    async def renew(self, claims: Sequence[Claim], *, lease_seconds: float) -> Renewal:
        """Extend the leases of all of a replica's claims, in one statement."""

    async def report(self, claims: Sequence[Claim]) -> None:
        """Write ``claim.progress`` of each, and its cost so far, in one statement, where the lease still holds."""

    async def keep(self, claim: Claim, drafts: Mapping[bytes, str]) -> None:
        """Checkpoint: what the engine said, by what it was asked. Raises ``Fenced``. Gone when the job ends."""

    async def kept(self, claim: Claim) -> Mapping[bytes, str]:
        """All checkpoints of a job, of this attempt and earlier ones."""

    async def commit(self, claim: Claim, transcript: Transcript, usage: Usage) -> None:
        """The job is completed: transcript, usage and status in one transaction; its secrets and uploads are erased."""

    async def fail(self, claim: Claim, problem: Problem, *, retry_in: float | None) -> None:
        """The attempt failed. With ``retry_in`` seconds and attempts left the job is pending again, else it failed."""

    async def give_back(self, claim: Claim, *, retry_in: float = 0.0) -> None:
        """The job is pending again, in ``retry_in`` seconds, and the attempt not counted."""

    async def cancel(self, claim: Claim) -> None:
        """The job is cancelled; its secrets and uploads are erased."""

    async def tend(self) -> Tended:
        """Take back jobs whose lease has run out, and let retries whose time has come into the turn.

        Any replica may call it at any time, and one should every second: a retry begins at the first call after its
        time. A job that lost its worker is pending again, or failed as ``worker-lost`` at the limit of losses.
        """

    async def sweep(self) -> Swept:
        """Erase what was kept for long enough – ended jobs, idempotency keys, uploads that were never submitted and are
        an hour old – in small batches, and repair the turn. Any replica may call it, every half a minute or so."""

    async def void_leases(self) -> int:
        """Treat every lease as run out now. Only for whoever knows that no other process can hold one."""

    async def work(self, *, poll_seconds: float) -> None:
        """Wait until there may be work: a submit here, a notice from elsewhere, or ``poll_seconds`` ± 20 %."""

    async def cancels(self) -> None:
        """Wait until a running job may have been cancelled or deleted; ``renew`` tells which. Notices may be lost."""

    def read_upload(self, claim: Claim, upload: UUID) -> AsyncIterator[bytes]:
        """The chunks of an uploaded file, in order."""

    async def health(self) -> QueueHealth:
        """Counts every row that waits: for gauges, never for probes."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One event on its way to a tenant's ``url``, which is a secret. ``id`` is the same over all ``tries``.

    ``tries`` counts this one. ``body`` is sent as it is.
    """

    id: UUID
    tenant: Tenant
    job: UUID
    url: str
    body: str
    tries: int


class Outbox(Protocol):
    """The webhooks' face: events that were written when their jobs ended, at least once each."""

    async def due(self, *, limit: int, lease_seconds: float, besides: Collection[Tenant] = ()) -> Sequence[Delivery]:
        """Take deliveries whose time has come, of none of ``besides``. One that is not told of within
        ``lease_seconds`` comes again."""

    async def tried(
        self, delivery: Delivery, *, seconds: float, status: int | None, error: str | None, retry_in: float | None
    ) -> None:
        """Log a try: the answer's ``status``, or the transport's ``error``. ``retry_in`` ``None``: it is done with,
        delivered or given up, and its URL is erased. One whose job was deleted meanwhile leaves no trace."""


@dataclass(frozen=True, slots=True)
class TenantTerms:
    """A tenant's share and limits; ``None`` is what the settings say."""

    tenant: Tenant
    weight: float = 1.0
    max_running: int | None = None
    max_pending: int | None = None


class Terms(Protocol):
    """The operator's face: what a tenant may have."""

    async def list(self) -> Sequence[TenantTerms]:
        """Tenants that were ever seen, by name."""

    async def set(self, terms: TenantTerms) -> None:
        """Holds from the next claim and the next submit on."""


class Store(Protocol):
    """Where jobs live. Entered as an async context manager while the service runs."""

    def tenant(self, tenant: Tenant) -> TenantJobs: ...

    def queue(self) -> JobQueue: ...

    def outbox(self) -> Outbox: ...

    def terms(self) -> Terms: ...

    async def ping(self) -> str:
        """What it runs on, with its version. Raises ``Unavailable`` when it cannot be reached."""

"""What the memory store keeps of each thing: the rows that the tables of PostgreSQL would have.

Times without a zone are seconds of the store's clock.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from uuid import UUID

from pipeline.jobs import Job, JobStatus, Progress, Tenant, Usage
from pipeline.store.rules import Secrets
from pipeline.transcript import Transcript


@dataclass(slots=True)
class Lease:
    """``waits``: claimed, and not begun yet. ``charged``: engine seconds its tenant was charged in advance;
    ``engine_seconds``: that its worker has told of."""

    token: UUID
    until: float
    claimed_at: float
    waited_seconds: float
    charged: float
    waits: bool
    progress: Progress
    engine_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Attempt:
    """One that has ended. Whoever settles twice with its token finds here what became of it."""

    claimed_at: float
    ended_at: float
    waited_seconds: float
    outcome: str
    engine_seconds: float


@dataclass(slots=True)
class JobRow:
    """A job and what only the store knows of it. ``ready_at``: since, or from when on, it may be claimed."""

    job: Job
    first: Job  # as it was submitted
    secrets: Secrets
    callback_url: str | None
    trace: Mapping[str, str]
    ready_at: float
    lease: Lease | None = None
    cancel_requested: bool = False
    attempts: dict[UUID, Attempt] = field(default_factory=dict)
    checkpoints: dict[bytes, str] = field(default_factory=dict)
    transcript: Transcript | None = None
    expires_at: float = math.inf

    @property
    def claimable(self) -> bool:
        """Pending, with no retry ahead of it."""
        return self.job.status is JobStatus.PENDING and self.job.next_attempt_at is None

    @property
    def shown(self) -> Job:
        """As the door shows it: with the progress that its worker has told of."""
        return replace(self.job, progress=self.lease.progress) if self.lease else self.job


@dataclass(slots=True)
class File:
    tenant: Tenant
    touched: float
    chunks: list[bytes] = field(default_factory=list)
    received: bool = False
    job: UUID | None = None


@dataclass(frozen=True, slots=True)
class KeyRow:
    digest: bytes
    job: UUID
    made_at: float


@dataclass(frozen=True, slots=True)
class UsageRow:
    """What a job has cost: ``processing_seconds`` of its last attempt, ``engine_seconds`` of all. It outlives it."""

    job: UUID
    tenant: Tenant
    attempt: int
    outcome: JobStatus
    mode: str
    model: str | None
    usage: Usage | None
    processing_seconds: float
    engine_seconds: float


@dataclass(frozen=True, slots=True)
class Try:
    number: int
    seconds: float
    status: int | None
    error: str | None


@dataclass(slots=True)
class DeliveryRow:
    """``url`` is ``None`` and ``next_try_at`` infinite once it is done with."""

    id: UUID
    tenant: Tenant
    job: UUID
    url: str | None
    body: str
    made_at: float
    next_try_at: float
    tries: int = 0
    log: list[Try] = field(default_factory=list)

"""The two faces of the store: one that knows its tenant, one that moves jobs for all of them.

A route is given ``TenantJobs`` and has no way to name another tenant; a stage is given ``JobQueue`` and cannot list.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from pipeline.claim import Claim
from pipeline.jobs import Job, JobRequest, Problem, Tenant, Usage
from pipeline.transcript import Transcript


class Unavailable(Exception):
    """The store cannot be reached right now; the same call may work later."""


class Fenced(Exception):
    """This claim's lease is gone: somebody else owns the job or has finished it. Nothing was written."""


@dataclass(frozen=True, slots=True)
class Depth:
    """How much waits and how much is under way, over all tenants."""

    pending: int
    running: int


class Upload(Protocol):
    """One uploaded file on its way in; what is not submitted with a job is erased again."""

    @property
    def id(self) -> UUID: ...

    async def write(self, chunk: bytes) -> None:
        """Append. Chunks may be of any size; the store never holds the whole file in memory."""


class TenantJobs(Protocol):
    """The door's face. Everything it sees and makes belongs to the one tenant it was made for."""

    def upload(self) -> AbstractAsyncContextManager[Upload]:
        """Receive a file. Leaving the block with an error erases what arrived."""

    async def submit(
        self, request: JobRequest, *, uploads: Sequence[UUID] = (), trace: Mapping[str, str] | None = None
    ) -> Job:
        """Queue a job. ``uploads`` become its media and are erased when it ends."""

    async def discard(self, uploads: Sequence[UUID]) -> None:
        """Erase uploads that no job was made of."""

    async def get(self, job_id: UUID) -> Job:
        """Raises ``pipeline.errors.NotFound`` alike for a job of another tenant and for none."""

    async def transcript(self, job_id: UUID) -> Transcript | None:
        """The transcript of a completed job, else ``None``. Raises ``NotFound`` like ``get``."""


@dataclass(frozen=True, slots=True)
class Renewal:
    """The heartbeat's answer, which is the truth: a claim whose token is in neither set has lost its lease."""

    kept: frozenset[UUID]
    cancelled: frozenset[UUID]


class JobQueue(Protocol):
    """The chain's face. Every settling call carries the claim's token and raises ``Fenced`` when it no longer holds.

    Settling twice with one token is the same as once, so a call whose outcome is unknown can be repeated.
    """

    async def claim(self, *, replica: str, lease_seconds: float) -> Claim | None:
        """Lease the next job, or ``None`` when nothing is ready. Counts an attempt.

        Nothing is awaited after the lease is certain, so a claim that was taken is a claim that is returned.
        """

    async def renew(self, claims: Sequence[Claim], *, lease_seconds: float) -> Renewal:
        """Extend the leases of all of a replica's claims, in one statement."""

    async def report(self, claims: Sequence[Claim]) -> None:
        """Write ``claim.progress`` of each, in one statement, where the lease still holds."""

    async def commit(self, claim: Claim, transcript: Transcript, usage: Usage) -> None:
        """The job is completed: transcript, usage and status in one transaction; its secrets and uploads are erased."""

    async def fail(self, claim: Claim, problem: Problem, *, retry_in: float | None) -> None:
        """The attempt failed. With ``retry_in`` seconds and attempts left the job is pending again, else it failed."""

    async def give_back(self, claim: Claim) -> None:
        """The job is pending again at once and the attempt not counted."""

    async def cancel(self, claim: Claim) -> None:
        """The job is cancelled; its secrets and uploads are erased."""

    async def rescue(self) -> int:
        """Make jobs whose lease has run out pending again, or failed as ``worker-lost``; how many there were.

        Any replica may call it at any time. Uploads that were never submitted and are an hour old go too.
        """

    async def void_leases(self) -> int:
        """Treat every lease as run out now. Only for whoever knows that no other process can hold one."""

    async def work(self, *, poll_seconds: float) -> None:
        """Wait until there may be work: a submit here, a notice from elsewhere, or ``poll_seconds`` ± 20 %."""

    def read_upload(self, claim: Claim, upload: UUID) -> AsyncIterator[bytes]:
        """The chunks of an uploaded file, in order."""

    async def depth(self) -> Depth: ...


class Store(Protocol):
    """Where jobs live. Entered as an async context manager while the service runs."""

    def tenant(self, tenant: Tenant) -> TenantJobs: ...

    def queue(self) -> JobQueue: ...

    async def ping(self) -> str:
        """What it runs on, with its version. Raises ``Unavailable`` when it cannot be reached."""

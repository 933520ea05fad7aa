"""What the suite works with: jobs, claims, a transcript, and every way to end an attempt."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol
from uuid import UUID

import pytest

from pipeline.claim import Claim
from pipeline.errors import MediaUnreachable
from pipeline.jobs import Job, JobRequest, Problem, Tenant, Usage
from pipeline.settings import QueueSettings
from pipeline.store import Delivery, JobQueue, Store
from pipeline.transcript import EngineInfo, Notice, Segment, Transcript

PassTime = Callable[[float], Awaitable[None]]
Everything = Callable[[], Awaitable[str]]
OpenStore = Callable[[QueueSettings], AbstractAsyncContextManager[Store]]


@dataclass(frozen=True, slots=True)
class Used:
    """A row of usage."""

    job: UUID
    tenant: str
    attempt: int
    outcome: str
    mode: str
    model: str | None
    media_seconds: float
    engine_seconds: float
    processing_seconds: float = field(default=0.0, compare=False)  # of a clock that may run by itself


@dataclass(frozen=True, slots=True)
class Account:
    """A tenant's place in the turn; ``cost`` with the charges that are not taken in yet."""

    tenant: str
    ready: bool
    cost: float
    usual_seconds: float


@dataclass(frozen=True, slots=True)
class Tried:
    """A row of the delivery log."""

    job: UUID
    number: int
    status: int | None
    error: str | None


class Books(Protocol):
    """What the store writes down and none of its faces reads yet."""

    async def usage(self) -> list[Used]: ...

    async def accounts(self) -> list[Account]:
        """By tenant."""

    async def tries(self) -> list[Tried]: ...

    async def strays(self) -> int:
        """Leases without a running job, and running jobs without a lease."""


ACME, GLOBEX = Tenant("acme"), Tenant("globex")
LEASE = 60.0
SECRET = "c0ffee"

USAGE = Usage(
    media_seconds=2.0,
    track_seconds=2.0,
    speech_seconds=1.5,
    queue_seconds=0.1,
    processing_seconds=0.5,
    realtime_factor=0.25,
)
SAID = Segment(
    id=0,
    track="downmix",
    start=0.0,
    end=1.5,
    text="Grüße – 你好\0",
    language="de",
    confidence=0.9,
    avg_logprob=-0.2,
    no_speech_prob=None,
    compression_ratio=1.1,
)
TRANSCRIPT = Transcript(
    text=SAID.text,
    language="de",
    duration=2.0,
    processing_mode="downmix",
    tracks=(),
    segments=(SAID,),
    warnings=(Notice(code="track-silent", track="1:0", detail="Nothing is said on this track."),),
    engine=EngineInfo(backend="mock", model="mock", device="cpu", compute_type="none", version="1"),
)
PROBLEM = Problem.of(MediaUnreachable("The server answered 503."), stage="downloader", attempt=1)


def a_request(**changes: object) -> JobRequest:
    return JobRequest.model_validate({"media_url": "https://media.test/a.flac", **changes})


async def submit(store: Store, tenant: Tenant = ACME, **changes: object) -> Job:
    return await store.tenant(tenant).submit(a_request(**changes))


async def claim(store: Store, *, replica: str = "one", lease: float = LEASE) -> Claim:
    """The next job, and after all others one that has lost a worker."""
    taken = await store.queue().claim(replica=replica, lease_seconds=lease)
    taken = taken or await store.queue().claim_alone(replica=replica, lease_seconds=lease, idle=True)
    assert taken is not None
    return taken


async def begun(store: Store) -> Claim:
    """The next job, already running alone if it has to."""
    taken = await claim(store)
    await store.queue().begin(taken)
    return taken


async def due(store: Store, *, limit: int = 100, besides: Collection[Tenant] = ()) -> Sequence[Delivery]:
    return await store.outbox().due(limit=limit, lease_seconds=LEASE, besides=besides)


async def nothing_ready(store: Store) -> bool:
    queue = store.queue()
    return not (
        await queue.claim(replica="one", lease_seconds=LEASE)
        or await queue.claim_alone(replica="one", lease_seconds=LEASE, idle=True)
    )


async def upload(store: Store, *chunks: bytes, tenant: Tenant = ACME) -> UUID:
    async with store.tenant(tenant).upload() as file:
        for chunk in chunks:
            await file.write(chunk)
    return file.id


async def read(store: Store, taken: Claim, file: UUID) -> list[bytes]:
    return [chunk async for chunk in store.queue().read_upload(taken, file)]


Settle = Callable[[JobQueue, Claim], Coroutine[Any, Any, None]]
SETTLERS: dict[str, Settle] = {
    "commit": lambda queue, taken: queue.commit(taken, TRANSCRIPT, USAGE),
    "fail": lambda queue, taken: queue.fail(taken, PROBLEM, retry_in=None),
    "retry": lambda queue, taken: queue.fail(taken, PROBLEM, retry_in=0.0),
    "give_back": lambda queue, taken: queue.give_back(taken),
    "cancel": lambda queue, taken: queue.cancel(taken),
}
ENDS = ("commit", "fail", "cancel")
every_settler = pytest.mark.parametrize("settle", SETTLERS.values(), ids=SETTLERS)
every_end = pytest.mark.parametrize("settle", [SETTLERS[name] for name in ENDS], ids=ENDS)

"""The store without a database: one process, nothing kept when it ends, the same rules.

It serves ``antiphon transcribe --once`` and the tests of everything above the store, and is the model that the one on
PostgreSQL is compared with. Every call passes a checkpoint first and then changes all it changes at once, so a
cancelled call has changed nothing.

tables   all that there is     rows     what each thing is made of     turns    whose turn it is
door     TenantJobs            uploads  files that come and go         terms    Terms
queue    JobQueue              ends     how an attempt ends            tending  what is late, due or old
outbox   Outbox                health   how the queue does
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Self

import anyio
from anyio.lowlevel import checkpoint

from pipeline.jobs import Tenant
from pipeline.settings import QueueSettings
from pipeline.store.memory.door import MemoryTenantJobs
from pipeline.store.memory.outbox import MemoryOutbox
from pipeline.store.memory.queue import MemoryJobQueue
from pipeline.store.memory.tables import Tables
from pipeline.store.memory.terms import MemoryTerms

__all__ = ["MemoryJobQueue", "MemoryOutbox", "MemoryStore", "MemoryTenantJobs", "MemoryTerms"]


class MemoryStore(Tables):
    """``clock`` tells seconds that only go forward; leases, retries and all that is kept are timed by it."""

    def __init__(
        self, *, settings: QueueSettings | None = None, clock: Callable[[], float] = anyio.current_time
    ) -> None:
        super().__init__(settings or QueueSettings(), clock)

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

    def outbox(self) -> MemoryOutbox:
        return MemoryOutbox(self)

    def terms(self) -> MemoryTerms:
        return MemoryTerms(self)

    async def ping(self) -> str:
        await checkpoint()
        return "memory"

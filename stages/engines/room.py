"""The one room where the model lives: many ask, its lanes answer, in batches.

    transcriber ─┐                        ┌─ lane 0 (a thread) ─┐
    transcriber ─┼─ ask(window) ─▶ ready ─┤                     ├─▶ Draft | WindowError
    transcriber ─┘      prepared, bounded └─ lane 1 (a thread) ─┘

There is no linger: batches form while the lanes are busy, and an idle lane starts with what is there. It only waits for
windows whose features are being made, some milliseconds, so that tracks that begin together share their first batch.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import anyio
import structlog
from anyio import CapacityLimiter, Semaphore, current_time, to_thread

from pipeline.claim import Claim
from pipeline.errors import EngineLost
from pipeline.jobs import PRIORITIES, Tenant
from stages.engines import CancelFlag, Draft, Engine, Window, WindowError

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Asker:
    """On whose behalf a window is asked for. ``weight``: the tenant's share beside that of others."""

    tenant: Tenant
    job: UUID
    track: str
    priority: int = 0
    weight: float = 1.0

    @classmethod
    def of(cls, claim: Claim, track: str) -> Asker:
        job = claim.job
        return cls(job.tenant, job.id, track, PRIORITIES[job.request.priority])


@dataclass(slots=True, eq=False)
class _Ask:
    """One prepared window on its way through the room. ``batch`` is the one that carries it, once it is running."""

    item: Any
    key: Hashable
    batch: _Batch | None = None
    answer: Draft | WindowError | None = None
    answered: anyio.Event = field(default_factory=anyio.Event)
    given_up: bool = False


@dataclass(slots=True, eq=False)
class _Batch:
    asks: Sequence[_Ask]
    cancel: CancelFlag = field(default_factory=CancelFlag)


@dataclass(frozen=True, slots=True)
class RoomStatistics:
    """Since the room was made. ``busy_seconds`` is summed over lanes; ``ready`` windows wait for one."""

    lanes: int
    busy_seconds: float
    batches: int
    windows: int
    ready: int


class ModelRoom:
    """Answers while it is ``open``. ``jobs``, ``tracks``, ``windows_per_track``: how many of each may be in flight."""

    def __init__(
        self,
        engine: Engine,
        *,
        memory_limit: int,
        jobs: int,
        tracks_per_job: int,
    ) -> None:
        self.engine = engine
        self.jobs = jobs
        self.tracks = jobs * tracks_per_job
        self._can = engine.capabilities
        # Half of what all lanes can take: a long recording alone still fills its batches well, and leaves room in them.
        self.windows_per_track = self._can.lanes * max(2, self._can.max_batch // 2)
        # Two batches a lane must fit, or lanes would wait for features however small the limit.
        self._places = max(2 * self._can.lanes * self._can.max_batch, memory_limit // self._can.bytes_per_item)
        self._ready: list[_Ask] = []
        self._arrived = anyio.Event()
        self._began: dict[_Batch, float] = {}
        self._busy = 0.0
        self._batches = self._windows = 0

    def statistics(self) -> RoomStatistics:
        return RoomStatistics(self._can.lanes, self._busy, self._batches, self._windows, len(self._ready))

    def longest_batch(self) -> float:
        """Seconds for which the oldest batch that is running has been."""
        return current_time() - min(self._began.values()) if self._began else 0.0

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Run the lanes. Leaving the block ends them as soon as their batches have."""
        self._held = Semaphore(self._places)
        self._preparing = CapacityLimiter(self._can.lanes)
        self._idle = self._coming = 0
        async with anyio.create_task_group() as group:
            for n in range(self._can.lanes):
                group.start_soon(self._lane, name=f"lane-{n}")
            yield
            group.cancel_scope.cancel()

    async def ask(self, window: Window | Callable[[], Awaitable[Window]], asker: Asker) -> Draft | WindowError:
        """What the engine hears in ``window``; an error of that window is a value. Waits while the room is full.

        A window that is still to be read is read when there is room for it: what waits holds no samples.
        """
        async with self._held:
            self._coming += 1
            try:
                item = await self._prepared(window)
            finally:
                self._coming -= 1
                self._arrived.set()
            if isinstance(item, WindowError):
                return item
            ask = _Ask(item, self.engine.batch_key(item))
            self._ready.append(ask)
            try:
                await ask.answered.wait()
            finally:
                self._give_up(ask)
        assert ask.answer is not None
        return ask.answer

    async def _prepared(self, window: Window | Callable[[], Awaitable[Window]]) -> Any | WindowError:
        read = window if isinstance(window, Window) else await window()
        try:
            return await to_thread.run_sync(self.engine.prepare, read, limiter=self._preparing)
        except EngineLost:
            raise
        except Exception as error:
            return _broken(error, windows=1)

    def _give_up(self, ask: _Ask) -> None:
        """Nobody waits for this window any more; a batch for nobody is told to stop."""
        ask.given_up = True
        if ask in self._ready:
            self._ready.remove(ask)
        if ask.batch and all(other.given_up for other in ask.batch.asks):
            ask.batch.cancel.set()

    async def _lane(self) -> None:
        thread = CapacityLimiter(1)
        while True:
            self._idle += 1
            while not self._is_due():
                self._arrived = anyio.Event() if self._arrived.is_set() else self._arrived
                await self._arrived.wait()
            batch = self._next_batch()
            self._idle -= 1
            for ask, answer in zip(batch.asks, await self._run(batch, thread), strict=True):
                ask.answer = answer
                ask.answered.set()

    def _is_due(self) -> bool:
        """Whether there is a batch to run: all that will be ready in a moment, or as much as one can take."""
        return len(self._ready) >= (self._can.max_batch if self._coming else 1)

    def _next_batch(self) -> _Batch:
        """The oldest window and those that may share its pass, in order of age; idle lanes share what is there."""
        key = self._ready[0].key
        alike = [ask for ask in self._ready if ask.key == key]
        share = -(-len(alike) // self._idle)
        batch = _Batch(alike[: min(share, self._can.max_batch)])
        for ask in batch.asks:
            ask.batch = batch
            self._ready.remove(ask)
        return batch

    async def _run(self, batch: _Batch, thread: CapacityLimiter) -> Sequence[Draft | WindowError]:
        """Every batch that the device runs passes here. One that breaks is done again a window at a time."""
        started = self._began[batch] = current_time()
        try:
            items = [ask.item for ask in batch.asks]
            return await to_thread.run_sync(self.engine.run, items, batch.cancel, limiter=thread)
        except EngineLost:
            raise
        except Exception as error:
            broken = _broken(error, windows=len(batch.asks))
            if len(batch.asks) == 1:
                return [broken]
        finally:
            del self._began[batch]
            self._busy += current_time() - started
            self._batches += 1
            self._windows += len(batch.asks)
        alone = [_Batch([ask], batch.cancel) for ask in batch.asks]
        return [answer for one in alone for answer in await self._run(one, thread)]


def _broken(error: Exception, *, windows: int) -> WindowError:
    log.warning("engine-failed", windows=windows, error=type(error).__name__, exc_info=error)
    return WindowError(f"the engine failed on this window ({type(error).__name__})")

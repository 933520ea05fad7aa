"""The one room where the model lives: many ask, its lanes answer, in batches.

    transcriber ─┐                        ┌─ lane 0 (a thread) ─┐
    transcriber ─┼─ ask ─▶ door ─▶ ready ─┤                     ├─▶ Draft | WindowError
    transcriber ─┘    a place, prepared   └─ lane 1 (a thread) ─┘

There is no linger: batches form while the lanes are busy, and an idle lane starts with what is there. It only waits for
windows whose features are being made, some milliseconds, so that tracks that begin together share their first batch.
At the door and at the lanes it is ``fairness`` that says who is next.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from operator import attrgetter
from typing import Any, Final
from uuid import UUID

import anyio
import structlog
from anyio import CapacityLimiter, current_time, to_thread

from pipeline.claim import Claim
from pipeline.errors import EngineLost
from pipeline.jobs import PRIORITIES, Tenant
from stages.engines import BatchTooBig, CancelFlag, Draft, Engine, LaneLost, Window, WindowError
from stages.engines.fairness import Accounts, Entry, Line
from stages.engines.rest import Rest

log = structlog.get_logger()

LANES_A_WINDOW_MAY_LOSE: Final = 3
"""Then it is taken to be why they are lost. After the first it runs alone, and takes no other window with it."""


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


@dataclass(slots=True, eq=False, kw_only=True)
class _Ask(Entry):
    """One window on its way through the room. ``batch`` is the one that carries it, once it is picked."""

    item: Any = None
    batch: _Batch | None = None
    lanes_lost: int = 0
    answer: Draft | WindowError | None = None
    admitted: anyio.Event = field(default_factory=anyio.Event)
    answered: anyio.Event = field(default_factory=anyio.Event)
    given_up: bool = False

    def tell(self, answer: Draft | WindowError) -> None:
        self.answer = answer
        self.answered.set()


@dataclass(slots=True, eq=False)
class _Batch:
    asks: Sequence[_Ask]
    cancel: CancelFlag = field(default_factory=CancelFlag)

    def __post_init__(self) -> None:
        for ask in self.asks:
            ask.batch = self


@dataclass(frozen=True, slots=True)
class RoomStatistics:
    """Since the room was made. ``busy_seconds`` is summed over lanes.

    Right now ``outside`` windows wait for a place, ``ready`` ones for the model and a lane that takes ``max_batch``.
    """

    lanes: int
    busy_seconds: float
    batches: int
    windows: int
    ready: int
    outside: int
    max_batch: int
    loaded_since: datetime | None


class ModelRoom:
    """Answers while it is ``open``. ``jobs``, ``tracks``, ``windows_per_track``: how many of each may be in flight."""

    def __init__(
        self,
        engine: Engine,
        *,
        memory_limit: int,
        jobs: int,
        tracks_per_job: int,
        idle_unload_seconds: float = 0.0,
    ) -> None:
        self.engine, self.jobs, self.tracks = engine, jobs, jobs * tracks_per_job
        self._can = can = engine.capabilities
        # A long recording alone fills the batch of every lane, and the one that is to come.
        self.windows_per_track = (can.lanes + 1) * can.max_batch
        # A batch of places is kept for tenants that hold none. The others must have room for two batches a lane, or
        # lanes would wait for features however small the limit.
        self._kept = can.max_batch
        self._places = max(2 * can.lanes * can.max_batch + self._kept, memory_limit // can.bytes_per_item)
        self._rest = Rest(engine, idle_unload_seconds)
        self._max_batch = can.max_batch
        self._accounts = Accounts()
        self._door: Line[_Ask] = Line(attrgetter("claim"))
        self._ready: Line[_Ask] = Line(attrgetter("had"))
        self._coming: set[_Ask] = set()
        self._inside = self._idle = 0
        self._began: dict[_Batch, float] = {}
        self._busy = 0.0
        self._batches = self._windows = 0

    def statistics(self) -> RoomStatistics:
        return RoomStatistics(
            lanes=self._can.lanes,
            busy_seconds=self._busy,
            batches=self._batches,
            windows=self._windows,
            ready=len(self._ready),
            outside=len(self._door),
            max_batch=self._max_batch,
            loaded_since=self._rest.loaded_since,
        )

    def longest_batch(self) -> float:
        """Seconds for which the oldest batch that is running has been."""
        return current_time() - min(self._began.values()) if self._began else 0.0

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Run the lanes. Leaving the block ends them as soon as their batches have."""
        self._preparing = CapacityLimiter(self._can.lanes)
        self._arrived = anyio.Event()
        self._idle = 0
        async with anyio.create_task_group() as group:
            for n in range(self._can.lanes):
                group.start_soon(self._lane, name=f"lane-{n}")
            group.start_soon(self._rest.keep, self._has_returned)
            yield
            group.cancel_scope.cancel()

    # ── from the door to the answer ──────────────────────────────────────────────────────────────────────────────────

    async def ask(self, window: Window | Callable[[], Awaitable[Window]], asker: Asker) -> Draft | WindowError:
        """What the engine hears in ``window``; an error of that window is a value. Waits while the room is full.

        A window that is still to be read is read when there is room for it: what waits holds no samples.
        """
        account = self._accounts.of(asker.tenant, asker.weight)
        ask = _Ask(account=account, job=asker.job, priority=asker.priority)
        with self._rest.awake():
            try:
                self._door.add(ask, current_time())
                self._admit()
                await ask.admitted.wait()
                if broken := await self._prepare(ask, window):
                    return broken
                await ask.answered.wait()
            finally:
                self._leave(ask)
        assert ask.answer is not None
        return ask.answer

    def _admit(self) -> None:
        """Let in whose turn it is while there are places, and hands: what is being prepared stands in no fair order.

        Two hands a thread, so that the next window is read while one is prepared.
        """
        while self._door and len(self._coming) < 2 * self._can.lanes:
            free = self._places - self._inside
            ask = self._door.next(current_time()) if free > self._kept else self._door.fairest()
            if free <= 0 or (free <= self._kept and ask.account.inside):
                return
            self._door.remove(ask)
            self._inside += 1
            self._coming.add(ask)
            ask.account.inside += 1
            ask.admitted.set()

    async def _prepare(self, ask: _Ask, window: Window | Callable[[], Awaitable[Window]]) -> WindowError | None:
        """Make it ready, or tell why it cannot be."""
        try:
            read = window if isinstance(window, Window) else await window()
            item = await to_thread.run_sync(self.engine.prepare, read, limiter=self._preparing)
            ask.item, ask.key = item, self.engine.batch_key(item)
            ask.expect(self.engine.cost(item))
            self._ready.add(ask, current_time())
            return None
        except EngineLost:
            raise
        except Exception as error:
            return _broken(error, windows=1)
        finally:
            self._has_come(ask)

    def _has_come(self, ask: _Ask) -> None:
        """It is ready, or never will be: there is a hand for the next one."""
        self._coming.discard(ask)
        self._admit()
        self._arrived.set()

    def _leave(self, ask: _Ask) -> None:
        """It is answered, or nobody waits for it any more; a batch for nobody is told to stop."""
        ask.given_up = True
        for line in (self._door, self._ready):
            if ask in line:
                line.remove(ask)
        if ask.batch is None:
            ask.leave()
        elif all(other.given_up for other in ask.batch.asks):
            ask.batch.cancel.set()
        if ask.admitted.is_set():
            ask.account.inside -= 1
            self._inside -= 1
        self._has_come(ask)

    # ── the lanes ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _lane(self) -> None:
        thread = CapacityLimiter(1)
        while True:
            self._idle += 1
            while not self._is_due():
                self._arrived = anyio.Event() if self._arrived.is_set() else self._arrived
                await self._arrived.wait()
            share = -(-len(self._ready) // self._idle)
            asks = self._ready.pick(current_time(), min(share, self._max_batch))
            self._idle -= 1
            with self._rest.awake():
                await self._run(_Batch(asks), thread)
            for ask in asks:
                ask.settle()

    def _is_due(self) -> bool:
        """Whether there is a batch to run: all that will be ready in a moment, or as much as one can take."""
        return self._rest.loaded and len(self._ready) >= (self._max_batch if self._coming else 1)

    async def _run(self, batch: _Batch, thread: CapacityLimiter) -> None:
        """Every batch that the device runs passes here. One that breaks is run again in parts."""
        try:
            with self._timed(batch):
                items = [ask.item for ask in batch.asks]
                answers = await to_thread.run_sync(self.engine.run, items, batch.cancel, limiter=thread)
        except EngineLost:
            raise
        except Exception as error:
            for part in self._parts(batch.asks, error):
                if asks := [ask for ask in part if not ask.given_up]:
                    await self._run(_Batch(asks), thread)
        else:
            for ask, answer in zip(batch.asks, answers, strict=True):
                ask.tell(answer)

    @contextmanager
    def _timed(self, batch: _Batch) -> Iterator[None]:
        """Its seconds are shared by its windows in proportion to what they were expected to take."""
        started = self._began[batch] = current_time()
        try:
            yield
        finally:
            del self._began[batch]
            seconds = current_time() - started
            self._busy += seconds
            self._batches += 1
            self._windows += len(batch.asks)
            cost = sum(ask.cost for ask in batch.asks)
            for ask in batch.asks:
                ask.seconds += seconds * ask.cost / cost

    def _parts(self, asks: Sequence[_Ask], error: Exception) -> Sequence[Sequence[_Ask]]:
        """What of a batch that broke is to be run again; a window that is not is told why."""
        if isinstance(error, BatchTooBig) and len(asks) > 1:
            half = -(-len(asks) // 2)
            self._max_batch = min(self._max_batch, half)
            log.warning("batch-too-big", windows=len(asks), max_batch=self._max_batch)
            return asks[:half], asks[half:]
        if isinstance(error, LaneLost):
            log.warning("lane-lost", windows=len(asks))
            return [[ask] for ask in asks if _may_run_again(ask)]
        broken = _broken(error, windows=len(asks))
        if len(asks) == 1:
            asks[0].tell(broken)
            return ()
        return [[ask] for ask in asks]

    def _has_returned(self) -> None:
        self._max_batch = self._can.max_batch
        self._arrived.set()


def _may_run_again(ask: _Ask) -> bool:
    """After one more lost lane. Of a window that may not, that is the answer."""
    ask.lanes_lost += 1
    if ask.lanes_lost == LANES_A_WINDOW_MAY_LOSE:
        ask.tell(WindowError(f"the engine's process ended or hung on this window {ask.lanes_lost} times"))
    return ask.lanes_lost < LANES_A_WINDOW_MAY_LOSE


def _broken(error: Exception, *, windows: int) -> WindowError:
    log.warning("engine-failed", windows=windows, error=type(error).__name__, exc_info=error)
    if isinstance(error, BatchTooBig):
        return WindowError("the device has not the memory for this window, even alone; set a smaller ENGINE__MODEL")
    return WindowError(f"the engine failed on this window ({type(error).__name__})")

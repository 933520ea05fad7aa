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
from dataclasses import dataclass
from datetime import datetime
from operator import attrgetter
from typing import Final
from uuid import UUID

import anyio
import structlog
from anyio import CapacityLimiter, current_time, to_thread

from pipeline.claim import Claim
from pipeline.errors import EngineLost
from pipeline.jobs import PRIORITIES, Tenant
from stages.engines import LOADING_SECONDS, BatchTooBig, Draft, Engine, LaneLost, Window, WindowError
from stages.engines.batch import Ask, Batch
from stages.engines.fairness import Accounts, Line
from stages.engines.rest import Rest

log = structlog.get_logger()

LANES_A_WINDOW_MAY_LOSE: Final = 3
"""Then it is taken to be why they are lost. After the first it runs alone, and takes no other window with it."""

FULL_BATCHES: Final = 32
"""After one that was too big, so many of the size that fits show that memory may be free again: twice as many windows
are tried. Where they fit no better than before, a batch in 33 is run in vain."""


@dataclass(frozen=True, slots=True)
class Asker:
    """On whose behalf a window is asked for; its engine seconds are charged to ``claim``. ``weight``: its tenant's."""

    tenant: Tenant
    job: UUID
    track: str
    priority: int = 0
    weight: float = 1.0
    claim: Claim | None = None

    @classmethod
    def of(cls, claim: Claim, track: str) -> Asker:
        return cls(claim.job.tenant, claim.job.id, track, PRIORITIES[claim.job.request.priority], claim.weight, claim)


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
        self._full = 0
        self._accounts = Accounts()
        self._door: Line[Ask] = Line(attrgetter("claim"))
        self._ready: Line[Ask] = Line(attrgetter("had"))
        self._coming: set[Ask] = set()
        self._inside = self._idle = 0
        self._began: dict[Batch, float] = {}
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

    def hangs(self, stall_seconds: float) -> bool:
        """Whether a batch has run for so long, or the model has not left or come back in all the time that it has."""
        longest = current_time() - min(self._began.values(), default=current_time())
        return longest >= stall_seconds + self._can.restart_seconds or self._rest.moving() >= LOADING_SECONDS

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
        ask = Ask(account=account, job=asker.job, priority=asker.priority, claim=asker.claim)
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

    async def _prepare(self, ask: Ask, window: Window | Callable[[], Awaitable[Window]]) -> WindowError | None:
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

    def _has_come(self, ask: Ask) -> None:
        """It is ready, or never will be: there is a hand for the next one."""
        self._coming.discard(ask)
        self._admit()
        self._arrived.set()

    def _leave(self, ask: Ask) -> None:
        """It is answered, or nobody waits for it any more."""
        ask.given_up = True
        for line in (self._door, self._ready):
            if ask in line:
                line.remove(ask)
        if ask.batch is None:
            ask.leave()
        elif ask.batch in self._began:
            ask.batch.leave(ask, current_time() - self._began[ask.batch])
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
            batch = Batch(self._ready.pick(current_time(), min(share, self._max_batch)))
            self._idle -= 1
            with self._rest.awake():
                await self._run(batch, thread)

    def _is_due(self) -> bool:
        """Whether there is a batch to run: all that will be ready in a moment, or as much as one can take."""
        return self._rest.loaded and len(self._ready) >= (self._max_batch if self._coming else 1)

    async def _run(self, batch: Batch, thread: CapacityLimiter) -> None:
        """Every batch that the device runs passes here. Of one that breaks, windows are put back to be run again."""
        again: Sequence[Ask] = ()
        try:
            with self._timed(batch):
                items = [ask.item for ask in batch.asks]
                answers = await to_thread.run_sync(self.engine.run, items, batch.cancel, limiter=thread)
            heard = [*zip(batch.asks, answers, strict=True)]
        except EngineLost:
            raise
        except Exception as error:
            again = self._again(batch.asks, error)
        else:
            for ask, answer in heard:
                ask.tell(answer)
            self._has_fitted(len(heard))
        for ask in batch.asks:
            ask.settle()
        self._put_back([ask for ask in again if not ask.given_up])

    @contextmanager
    def _timed(self, batch: Batch) -> Iterator[None]:
        """Its seconds are charged to its windows, but not those of a lost lane: one of them may have hung for all."""
        started = self._began[batch] = current_time()
        lost = False
        try:
            yield
        except LaneLost:
            lost = True
            raise
        finally:
            del self._began[batch]
            seconds = current_time() - started
            self._busy += seconds
            self._batches += 1
            self._windows += len(batch.asks)
            batch.charge(0.0 if lost else seconds)

    def _again(self, asks: Sequence[Ask], error: Exception) -> Sequence[Ask]:
        """What of a batch that broke is to be run again; a window that is not is told why."""
        if isinstance(error, BatchTooBig) and len(asks) > 1:
            self._max_batch, self._full = min(self._max_batch, -(-len(asks) // 2)), 0
            log.warning("batch-too-big", windows=len(asks), max_batch=self._max_batch)
            return asks
        if isinstance(error, LaneLost):
            log.warning("lane-lost", windows=len(asks), reason=str(error))
            asks = [ask for ask in asks if _may_run_again(ask)]
        else:
            broken = _broken(error, windows=len(asks))
            if len(asks) == 1:
                asks[0].tell(broken)
                return ()
        for ask in asks:
            ask.key = object()  # like no other: it runs alone
        return asks

    def _put_back(self, asks: Sequence[Ask]) -> None:
        """Any lane may take them, in the fair order."""
        for ask in reversed(asks):
            ask.batch = None
            self._ready.put_back(ask)
        self._arrived.set()

    def _has_fitted(self, windows: int) -> None:
        if windows < self._max_batch or self._max_batch == self._can.max_batch:
            return
        self._full += 1
        if self._full == FULL_BATCHES:
            self._max_batch, self._full = min(2 * self._max_batch, self._can.max_batch), 0

    def _has_returned(self) -> None:
        self._max_batch = self._can.max_batch
        self._arrived.set()


def _may_run_again(ask: Ask) -> bool:
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

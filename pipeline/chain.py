"""A chain: stages joined by bounded channels and run as one task group.

        take          attend ....... attend        settle
    Source ──▶ Stage ──▶ Stage ──▶ Stage ──▶ ... ──▶ Sink
                 └─────────┴─────────┴── Failure ──────▲

Every message leaves a stage by one of two doors: on to the next, or, as a Failure, straight to the sink. A chain stops
the way water does: ``drain`` shuts the tap, each stage ends when the channel before it runs dry, and ``run`` returns
when the sink has settled the last claim.

The law: every claim taken ends exactly once – as a result, a failure, given up, or forfeited with its lease.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from itertools import chain as joined
from itertools import pairwise, repeat
from typing import Any, Final, Generic, TypeVar, cast

import anyio
from anyio import TASK_STATUS_IGNORED, CancelScope, create_memory_object_stream, current_time
from anyio.abc import TaskGroup, TaskStatus

from pipeline.claim import Abandoned, Claim, Failure, Why
from pipeline.errors import EngineLost, Internal
from pipeline.observer import Ending, Observer, Turn
from pipeline.stage import Gather, Sink, Source, Split, Stage
from pipeline.step import Inbox, Outbox, Parcel, Step, StepStatistics, Tube

T = TypeVar("T")
U = TypeVar("U")

PAUSES: Final = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0)
"""Seconds between tries of a source, sink or transient item; the last one repeats."""

GIVE_BACK_SECONDS: Final = 5.0
"""How long a stopped chain may take to give back what is open; the rest is forfeited."""


@dataclass(slots=True)
class _Tally:
    """An open claim: its messages on the way, and, once it is leaving, what the sink is to settle."""

    in_flight: int = 1
    leaving: bool = False
    last: Any = None


class Chain(Generic[T]):
    """Declared with ``Chain(source).then(...).sink(...)``; run whole, or ``once`` inline. Run it one time only."""

    def __init__(self, source: Source[T], *, observe: Observer | None = None) -> None:
        self._source = source
        self._observer = observe or Observer()
        self._steps: list[Step] = []
        self._sink: Sink[Any] | None = None
        self._sinkers = 1
        # made when the chain runs: a scope belongs to an event loop, and a chain may be drawn without one
        self._tap: CancelScope | None = None
        self._whole: CancelScope | None = None
        self._open: dict[Claim, _Tally] = {}

    def then(self, stage: Stage[T, U], *, workers: int = 1, ahead: int = 0) -> Chain[U]:
        """Add a stage: ``workers`` tasks, fed by a channel that holds ``ahead`` items."""
        self._steps.append(Step(stage, workers, ahead))
        return cast("Chain[U]", self)

    def sink(self, sink: Sink[T], *, workers: int = 1) -> Chain[T]:
        """End the declaration. Raises ``ValueError`` when a Split is not followed by a Gather."""
        stages = [step.stage for step in self._steps]
        splits = [i for i, stage in enumerate(stages) if isinstance(stage, Split)]
        gathers = [i for i, stage in enumerate(stages) if isinstance(stage, Gather)]
        if splits and not (gathers and splits[-1] < gathers[-1]):
            raise ValueError(f"{stages[splits[-1]].name} splits a job and nothing gathers it: it would end many times.")
        self._sink, self._sinkers = sink, workers
        return self

    def drain(self) -> None:
        """Take no more claims; those in hand run to their end, then ``run`` returns. No effect before it runs."""
        if self._tap:
            self._tap.cancel()

    def stop(self) -> None:
        """Drop what is in hand; every open claim is given back, then ``run`` returns."""
        if self._whole:
            self._whole.cancel()

    def statistics(self) -> tuple[StepStatistics, ...]:
        """How full the chain is right now, stage by stage."""
        return tuple(step.statistics() for step in self._steps)

    async def run(self, *, task_status: TaskStatus[None] = TASK_STATUS_IGNORED) -> None:
        """Run until drained, stopped or cancelled. Raises only what nobody contains: a lost engine, a bug of ours."""
        sink, forfeit = self._end_of_line(), False
        self._tap, self._whole = tap, whole = CancelScope(), CancelScope()
        async with self._source.running(), sink.running():
            try:
                with whole:
                    await self._flow(sink, tap, task_status)
            except BaseException as error:
                forfeit = _holds(error, EngineLost)
                raise
            finally:
                await self._give_back(sink, forfeit=forfeit)

    async def once(self, claim: Claim, item: Any) -> None:
        """The same stages as one straight call, one after another: for a debugger, a test, a baseline."""
        sink = self._end_of_line()
        async with AsyncExitStack() as opened:
            for step in self._steps:
                await opened.enter_async_context(step.stage.running())
            opened.push_async_callback(claim.resources.aclose)
            items: list[Any] = [item]
            for step in self._steps:
                try:
                    items = [out for i in items async for out in step.stage.feed(claim, i)]
                except Exception as error:
                    items = [Failure(step.stage.name, error)]
                    break
            for last in items:
                await sink.settle(claim, last)

    def __str__(self) -> str:
        ends = f"{self._end_of_line().name} ×{self._sinkers}"
        return " ▶ ".join([self._source.name, *map(str, self._steps), ends])

    # ── the three loops: take, work, settle ──────────────────────────────────────────────────────────────────────────

    async def _flow(self, sink: Sink[Any], tap: CancelScope, task_status: TaskStatus[None]) -> None:
        async with AsyncExitStack() as opened:
            for step in self._steps:
                await opened.enter_async_context(step.stage.running())
            try:
                async with anyio.create_task_group() as group:
                    self._start(group, sink, tap)
                    task_status.started()
            finally:
                if self._whole and self._whole.cancel_called:  # leaving a stage may take as long as a batch
                    await self._give_back(sink, forfeit=False)

    def _start(self, group: TaskGroup, sink: Sink[Any], tap: CancelScope) -> None:
        """Join the stages by channels and give every one its hands. Each hand closes its ends when it is done."""
        to_sink, settling = create_memory_object_stream[Parcel](0)
        for n in range(self._sinkers):
            group.start_soon(self._settle, sink, settling.clone(), name=f"{sink.name}-{n}")
        feeds = [create_memory_object_stream[Parcel](step.ahead) for step in self._steps]
        outboxes: list[Outbox | None] = [*(outbox for outbox, _ in feeds), None]
        for step, (_, inbox), (_, outbox) in zip(self._steps, feeds, pairwise(outboxes), strict=True):
            step.inbox = inbox
            for n in range(step.workers):
                tube = Tube(step, outbox.clone() if outbox else None, to_sink.clone())
                group.start_soon(self._work, tube, inbox.clone(), name=f"{step.stage.name}-{n}")
        group.start_soon(self._take, tap, feeds[0][0].clone(), to_sink.clone(), name=self._source.name)
        for end in (to_sink, settling, *(end for feed in feeds for end in feed)):
            end.close()

    async def _take(self, tap: CancelScope, outbox: Outbox, to_sink: Outbox) -> None:
        """Run the source; when it breaks (the database went away), begin it again."""
        pauses, stranded = _pauses(), None
        async with outbox, to_sink:
            with tap:
                while True:
                    try:
                        async with aclosing(cast("AsyncGenerator[Parcel]", self._source.claims())) as claims:
                            async for claim, first in claims:
                                pauses, stranded = _pauses(), claim
                                self._open[claim] = _Tally()
                                await self._admit(claim)
                                await outbox.send((claim, first))
                                stranded = None
                        return
                    except Exception as error:
                        if stranded:
                            await self._leave(stranded, Failure(self._source.name, error), to_sink)
                            stranded = None
                        wait = next(pauses)
                        self._observer.retrying(self._source.name, None, error, wait)
                        await anyio.sleep(wait)
            if stranded:  # drained before the first hand had it
                await self._leave(stranded, Failure(self._source.name, Abandoned(Why.STOPPED)), to_sink)

    async def _admit(self, claim: Claim) -> None:
        scope = CancelScope()
        with claim.holding(scope), scope:
            await self._source.admit(claim)

    async def _work(self, tube: Tube, inbox: Inbox) -> None:
        async with inbox, tube:
            async for claim, item in inbox:
                if claim not in self._open:
                    continue  # it has ended while this message waited
                tube.step.active += 1
                try:
                    error = await self._attend(tube, claim, item)
                finally:
                    tube.step.active -= 1
                await self._passed(tube, claim, error)

    async def _settle(self, sink: Sink[Any], inbox: Inbox) -> None:
        async with inbox:
            async for claim, last in inbox:
                await self._insist(sink, claim, last)

    async def _insist(self, sink: Sink[Any], claim: Claim, last: Any) -> None:
        """Write one end: over errors that may pass for as long as the lease holds, over others a few times.

        What still cannot be written is told as a failure instead, and if that cannot be written either, forfeited: one
        bad result must not hold the sink for ever.
        """
        left = sink.tries
        for wait in _pauses():
            if (error := await self._write(sink, claim, last)) is None:
                return
            self._observer.retrying(sink.name, claim, error, wait)
            left -= not isinstance(error, sink.transient)
            if left == 0 and not isinstance(last, Failure):
                left, last = sink.tries, Failure(sink.name, error)
            elif left <= 0:
                claim.abandon(Why.LEASE_LOST)
            await anyio.sleep(wait)

    # ── what surrounds one item ──────────────────────────────────────────────────────────────────────────────────────

    async def _attend(self, tube: Tube, claim: Claim, item: Any) -> Exception | None:
        """One item at one stage: every item of every stage passes here. What it raised, or ``None``."""
        stage, turn = tube.step.stage, Turn(tube.step.stage.name, claim)
        with self._observer.attending(stage.name, claim):
            try:
                for attempt, wait in enumerate(_pauses(), start=1):
                    try:
                        await self._feed(tube, claim, item, turn)
                        break
                    except stage.transient as error:
                        if attempt == stage.tries or turn.outs:
                            raise
                        self._observer.retrying(stage.name, claim, error, wait)
                    await anyio.sleep(wait)
            except EngineLost:
                raise
            except Exception as error:
                turn.error = _alone(error)
            finally:
                self._observer.turned(turn)
        return turn.error

    async def _feed(self, tube: Tube, claim: Claim, item: Any, turn: Turn) -> None:
        scope, clock = CancelScope(), current_time()
        try:
            with claim.holding(scope), scope:
                async with aclosing(tube.step.stage.feed(claim, item)) as outs:
                    async for out in outs:
                        turn.busy += (now := current_time()) - clock
                        turn.outs += 1
                        await self._pass_on(tube, claim, out)
                        turn.blocked += (clock := current_time()) - now
        finally:
            turn.busy += current_time() - clock
        if claim.abandoned:
            raise Abandoned(claim.abandoned)

    async def _pass_on(self, tube: Tube, claim: Claim, out: Any) -> None:
        if tube.outbox is None:
            await self._leave(claim, out, tube.to_sink)
        elif tally := self._open.get(claim):
            tally.in_flight += 1
            await tube.outbox.send((claim, out))

    async def _passed(self, tube: Tube, claim: Claim, error: Exception | None) -> None:
        """A message is done with. The last one of a claim that is not leaving takes the claim along."""
        if (tally := self._open.get(claim)) is None:
            return
        tally.in_flight -= 1
        if error is None and tally.in_flight == 0 and not tally.leaving:
            error = Internal(f"The {tube.step.stage.name} ended without a result.")
        if error is not None:
            await self._leave(claim, Failure(tube.step.stage.name, error), tube.to_sink)

    async def _leave(self, claim: Claim, last: Any, to_sink: Outbox) -> None:
        """Send a claim to the sink, once: what comes later of the same claim is dropped."""
        tally = self._open.get(claim)
        if tally is None or tally.leaving:
            return
        tally.leaving, tally.last = True, last
        if isinstance(last, Failure):
            claim.abandon(Why.FAILED)
        try:
            with CancelScope(shield=True):  # not to be lost between the doors
                await to_sink.send((claim, last))
        except anyio.BrokenResourceError:
            pass  # the chain was stopped: ``_give_back`` settles what is left open

    async def _write(self, sink: Sink[Any], claim: Claim, last: Any) -> Exception | None:
        """Settle a claim unless its lease is lost, and end it. What the sink raised, or ``None``: it has ended."""
        if claim.abandoned is Why.LEASE_LOST:
            await self._end(claim, Ending.FORFEITED, Abandoned(Why.LEASE_LOST))
            return None
        turn, clock = Turn(sink.name, claim), current_time()
        with self._observer.attending(sink.name, claim):
            try:
                with CancelScope(shield=True):
                    await sink.settle(claim, last)
            except Exception as error:
                turn.error = error
            turn.busy = current_time() - clock
            self._observer.turned(turn)
            if turn.error is None:
                why = last.error if isinstance(last, Failure) else None
                await self._end(claim, _ending(why), why)
        return turn.error

    async def _end(self, claim: Claim, ending: Ending, error: Exception | None) -> None:
        del self._open[claim]
        self._observer.ended(claim, ending, error)
        with CancelScope(shield=True):
            await claim.resources.aclose()

    async def _give_back(self, sink: Sink[Any], *, forfeit: bool) -> None:
        """End whatever is still open, at once: finished work is written, the rest given back or forfeited."""
        with anyio.move_on_after(GIVE_BACK_SECONDS, shield=True):
            async with anyio.create_task_group() as group:
                for claim, tally in list(self._open.items()):
                    claim.abandon(Why.STOPPED)
                    last = tally.last if tally.leaving else Failure("chain", Abandoned(claim.abandoned or Why.STOPPED))
                    if tally.leaving or not forfeit:
                        group.start_soon(self._write, sink, claim, last)
        for claim in list(self._open):
            await self._end(claim, Ending.FORFEITED, Abandoned(claim.abandoned or Why.STOPPED))

    def _end_of_line(self) -> Sink[Any]:
        if self._sink is None:
            raise ValueError("A chain needs a sink before it can run.")
        return self._sink


def _ending(error: Exception | None) -> Ending:
    if error is None:
        return Ending.RESULT
    return Ending.GIVEN_UP if isinstance(error, Abandoned) else Ending.FAILURE


def _pauses() -> Iterator[float]:
    return joined(PAUSES, repeat(PAUSES[-1]))


def _alone(error: Exception) -> Exception:
    """The one error of a stage's task group says more than the group around it."""
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        [error] = error.exceptions
    return error


def _holds(error: BaseException, kind: type[Exception]) -> bool:
    return isinstance(error, kind) or (isinstance(error, BaseExceptionGroup) and error.subgroup(kind) is not None)

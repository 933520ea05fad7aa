"""Small stages and an observer that counts, to try the kernel with."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal
from uuid import uuid4

import anyio

from pipeline.claim import Claim, Failure
from pipeline.jobs import Job, JobRequest, Tenant
from pipeline.observer import Ending, Observer, Turn
from pipeline.stage import Gather, Map, Sink, Source, Split


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to happen to one claim: how many tracks, and where it breaks."""

    tracks: int = 1
    breaks_in: str | None = None
    unwritable: Literal["result", "anything"] | None = None


@dataclass(frozen=True, slots=True)
class Piece:
    plan: Plan
    index: int = 0


def new_claim() -> Claim:
    request = JobRequest(media_url="http://media.test/a")
    return Claim(Job(id=uuid4(), tenant=Tenant("acme"), request=request, created_at=datetime.now(UTC), attempt=1))


@dataclass
class Taker(Source[Plan]):
    """Takes one claim a plan; raises before those whose index is in ``crashes``, once each."""

    plans: Sequence[Plan]
    crashes: set[int] = field(default_factory=set)
    taken: list[Claim] = field(default_factory=list)
    closed: Counter[Claim] = field(default_factory=Counter)

    def plan_of(self, claim: Claim) -> Plan:
        return self.plans[self.taken.index(claim)]

    async def claims(self) -> AsyncIterator[tuple[Claim, Plan]]:
        while len(self.taken) < len(self.plans):
            await anyio.lowlevel.checkpoint()
            index = len(self.taken)
            if index in self.crashes:
                self.crashes.discard(index)
                raise ConnectionError("the database went away")
            claim = new_claim()
            claim.resources.callback(self.closed.update, [claim])
            self.taken.append(claim)
            yield claim, self.plans[index]


class Fetch(Map[Plan, Plan]):
    async def handle(self, claim: Claim, item: Plan) -> Plan:
        await anyio.lowlevel.checkpoint()
        _break(item, "fetch")
        return item


class Cut(Split[Plan, Piece]):
    async def handle(self, claim: Claim, item: Plan) -> AsyncGenerator[Piece, None]:
        for index in range(item.tracks):
            await anyio.lowlevel.checkpoint()
            if index:
                _break(item, "cut")
            yield Piece(item, index)


class Hear(Map[Piece, Piece]):
    """Needs a task of its own, as the model room does."""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.sleep_forever)
            yield
            group.cancel_scope.cancel()

    async def handle(self, claim: Claim, item: Piece) -> Piece:
        await anyio.sleep(0.001)
        if item.index == item.plan.tracks - 1:
            _break(item.plan, "hear")
        return item


class Join(Gather[Piece, list[int]]):
    async def handle(self, claim: Claim, item: Piece) -> list[int] | None:
        await anyio.lowlevel.checkpoint()
        _break(item.plan, "join")
        heard: list[int] = claim.held.setdefault(self, [])
        heard.append(item.index)
        return sorted(heard) if len(heard) == item.plan.tracks else None


@dataclass
class Writer(Sink[Any]):
    """Remembers what it wrote; fails ``breaks`` times for every claim first, and for ever as ``taker`` plans it."""

    transient = (ConnectionError,)

    breaks: int = 0
    taker: Taker | None = None
    written: dict[Claim, list[Any]] = field(default_factory=dict)
    tried: Counter[Claim] = field(default_factory=Counter)

    async def settle(self, claim: Claim, item: Any | Failure) -> None:
        await anyio.lowlevel.checkpoint()
        self.tried[claim] += 1
        if self.tried[claim] <= self.breaks:
            raise ConnectionError("the database went away")
        bad = self.taker.plan_of(claim).unwritable if self.taker else None
        if bad == "anything" or (bad == "result" and not isinstance(item, Failure)):
            raise ValueError("this cannot be written")
        self.written.setdefault(claim, []).append(item)


@dataclass
class Ledger(Observer):
    """Keeps everything it is told."""

    endings: dict[Claim, list[Ending]] = field(default_factory=dict)
    turns: list[Turn] = field(default_factory=list)
    retries: list[tuple[str, float]] = field(default_factory=list)

    def turned(self, turn: Turn) -> None:
        self.turns.append(turn)

    def ended(self, claim: Claim, ending: Ending, error: Exception | None) -> None:
        self.endings.setdefault(claim, []).append(ending)

    def retrying(self, stage: str, claim: Claim | None, error: Exception, wait: float) -> None:
        self.retries.append((stage, wait))


def _break(plan: Plan, where: str) -> None:
    if plan.breaks_in == where:
        raise ValueError(f"broken in {where}")

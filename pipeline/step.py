"""A stage's place in a chain: its hands, the channel before it, and the doors behind it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from pipeline.claim import Claim
from pipeline.stage import Stage

Parcel = tuple[Claim, Any]
Inbox = MemoryObjectReceiveStream[Parcel]
Outbox = MemoryObjectSendStream[Parcel]


@dataclass(slots=True)
class Step:
    """A stage's place in the chain: ``workers`` hands, and a channel before it that holds ``ahead`` items."""

    stage: Stage[Any, Any]
    workers: int
    ahead: int
    active: int = 0
    inbox: Inbox | None = field(default=None, repr=False)

    def statistics(self) -> StepStatistics:
        held = self.inbox.statistics() if self.inbox else None
        waiting = held.current_buffer_used + held.tasks_waiting_send if held else 0
        return StepStatistics(self.stage.name, waiting, self.ahead, self.active, self.workers)

    def __str__(self) -> str:
        return f"{self.stage.name} ×{self.workers}" + (f" ({self.ahead} ahead)" if self.ahead else "")


@dataclass(frozen=True, slots=True)
class StepStatistics:
    """A stage right now: items waiting before it, hands at work, and how many of both there may be."""

    stage: str
    waiting: int
    ahead: int
    active: int
    workers: int


@dataclass(slots=True)
class Tube:
    """One hand's way out: on to the next stage (``None``: it is the last), or straight to the sink."""

    step: Step
    outbox: Outbox | None
    to_sink: Outbox

    async def __aenter__(self) -> None: ...

    async def __aexit__(self, *_: object) -> None:
        if self.outbox:
            self.outbox.close()
        self.to_sink.close()

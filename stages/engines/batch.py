"""What the room carries: windows that were asked for, and the batches of them that the engine runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import anyio

from pipeline.claim import Claim
from stages.engines import CancelFlag, Draft, WindowError
from stages.engines.fairness import Entry


@dataclass(slots=True, eq=False, kw_only=True)
class Ask(Entry):
    """One window on its way through the room. ``batch`` is the one that carries it, once it is picked."""

    claim: Claim | None = None
    item: Any = None
    batch: Batch | None = None
    lanes_lost: int = 0
    answer: Draft | WindowError | None = None
    admitted: anyio.Event = field(default_factory=anyio.Event)
    answered: anyio.Event = field(default_factory=anyio.Event)
    given_up: bool = False

    def tell(self, answer: Draft | WindowError) -> None:
        self.answer = answer
        self.answered.set()


@dataclass(slots=True, eq=False)
class Batch:
    asks: Sequence[Ask]
    cancel: CancelFlag = field(default_factory=CancelFlag)

    def __post_init__(self) -> None:
        for ask in self.asks:
            ask.batch = self

    def charge(self, seconds: float) -> None:
        """Shared by its windows in proportion to what they were expected to take, also by those nobody waits for."""
        cost = sum(ask.cost for ask in self.asks)
        for ask in self.asks:
            share = seconds * ask.cost / cost
            ask.seconds += share
            if ask.claim:
                ask.claim.engine_seconds += share

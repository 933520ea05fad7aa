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
    """``charged``: engine seconds of it that claims were charged before its end, by their windows."""

    asks: Sequence[Ask]
    cancel: CancelFlag = field(default_factory=CancelFlag)
    charged: dict[Ask, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for ask in self.asks:
            ask.batch = self

    def leave(self, ask: Ask, seconds: float) -> None:
        """Nobody waits for this window any more, after so many ``seconds`` of the batch. Its claim may end any moment
        and is charged now; a batch for nobody is told to stop."""
        self._charge(ask, seconds)
        if all(other.given_up for other in self.asks):
            self.cancel.set()

    def charge(self, seconds: float) -> None:
        """Shared by its windows in proportion to what they were expected to take, also by those nobody waits for."""
        for ask in self.asks:
            ask.seconds += self._charge(ask, seconds)

    def _charge(self, ask: Ask, seconds: float) -> float:
        """The window's share; its claim is charged what it has not been yet."""
        share = seconds * ask.cost / sum(each.cost for each in self.asks)
        if ask.claim:
            ask.claim.engine_seconds += share - self.charged.get(ask, 0.0)
            self.charged[ask] = share
        return share

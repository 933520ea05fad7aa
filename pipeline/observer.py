"""What a chain tells of its work, to whoever listens: metrics, logs, traces, tests."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from enum import StrEnum

from pipeline.claim import Claim


class Ending(StrEnum):
    """The one way in which a claim has ended."""

    RESULT = "result"
    FAILURE = "failure"
    GIVEN_UP = "given up"  # abandoned, and the sink was told why
    FORFEITED = "forfeited"  # with its lease: nothing could be, or may be, written


@dataclass(slots=True)
class Turn:
    """One item at one stage. ``busy``: seconds in the stage; ``blocked``: seconds waiting for room behind it."""

    stage: str
    claim: Claim
    busy: float = 0.0
    blocked: float = 0.0
    outs: int = 0
    error: Exception | None = None


class Observer:
    """Does nothing; override what you want to hear. Nothing here may block or raise."""

    def attending(self, stage: str, claim: Claim) -> AbstractContextManager[None]:
        """Entered around one item: the place for log context and a span, which do not cross channels."""
        return nullcontext()

    def turned(self, turn: Turn) -> None:
        """An item has left a stage."""

    def ended(self, claim: Claim, ending: Ending, error: Exception | None) -> None:
        """A claim has ended; told exactly once for every claim taken."""

    def retrying(self, stage: str, claim: Claim | None, error: Exception, wait: float) -> None:
        """Source (no claim), stage or sink met an error that may pass; tried again in ``wait`` seconds."""

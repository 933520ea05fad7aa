"""A claim: one attempt at one job, from the moment it is taken until it has ended."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from anyio import CancelScope

from pipeline.jobs import Job, Progress


class Why(StrEnum):
    """Why a claim was given up before its end."""

    CANCELLED = "cancelled"  # its client no longer wants it
    LEASE_LOST = "lease lost"  # another replica may have it: nothing may be written any more
    STOPPED = "stopped"  # this replica ends: the job goes back, its attempt not counted
    FAILED = "failed"  # a sibling message failed, and its Failure is on its way to the sink


class Abandoned(Exception):
    """Work on this claim was given up on purpose."""

    def __init__(self, why: Why) -> None:
        self.why = why
        super().__init__(str(why))


@dataclass(frozen=True, slots=True)
class Failure:
    """What reaches the sink in place of a result: the stage that broke, and how."""

    stage: str
    error: Exception


@dataclass(eq=False, slots=True)
class Claim:
    """Travels beside every message, so that no stage ever looks a job up.

    ``token`` fences every write of this attempt. ``weight``: its tenant's share beside that of others. ``resumes``: an
    earlier attempt left checkpoints. ``engine_seconds``: what this one has cost so far. ``held`` is where a Gather
    keeps what it waits for. ``resources`` is closed when the claim has ended, however it ended: whatever was opened for
    this attempt hangs there.
    """

    job: Job
    token: UUID = field(default_factory=uuid4)
    weight: float = 1.0
    resumes: bool = False
    engine_seconds: float = 0.0
    trace: Mapping[str, str] = field(default_factory=dict)
    scratch: Path = Path()
    progress: Progress = Progress()
    held: dict[Any, Any] = field(default_factory=dict)
    resources: AsyncExitStack = field(default_factory=AsyncExitStack)
    abandoned: Why | None = None
    _hands: set[CancelScope] = field(default_factory=set)

    @contextmanager
    def holding(self, scope: CancelScope) -> Iterator[None]:
        """Let ``abandon`` reach the work done under ``scope``."""
        if self.abandoned:
            scope.cancel()
        self._hands.add(scope)
        try:
            yield
        finally:
            self._hands.discard(scope)

    def abandon(self, why: Why) -> None:
        """Stop this job early: work in hand is cancelled, what waits is dropped when next picked up.

        The first reason stands, except that a lost lease overrides it: a claim without a lease must write nothing.
        """
        if self.abandoned is None or why is Why.LEASE_LOST:
            self.abandoned = why
        for scope in self._hands:
            scope.cancel()

    def advance(self, stage: str, part: float = 0.0, **changes: Any) -> None:
        """Note progress; the heartbeat carries it to the store."""
        self.progress = self.progress.at(stage, part, **changes)

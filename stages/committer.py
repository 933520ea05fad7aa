"""The end of every attempt, made durable: completed, failed, given back or cancelled."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from typing import Final

from pipeline.claim import Abandoned, Claim, Failure, Why
from pipeline.jitter import jittered
from pipeline.jobs import Problem, Usage
from pipeline.settings import QueueSettings
from pipeline.stage import Sink
from pipeline.store import Fenced, JobQueue, Unavailable
from pipeline.transcript import Transcript
from stages.checkpoints import save

LONGEST_PAUSE_SECONDS: Final = 3600.0
"""Doubling comes to days with a dozen attempts, and what an hour has not mended is seldom mended by a longer pause."""

AWAY_SECONDS: Final = 5.0
"""Before a job is taken again that could not reach the store: without a pause it comes around at once, for ever."""


class Committer(Sink[Transcript]):
    transient = (Unavailable,)

    def __init__(self, queue: JobQueue, settings: QueueSettings) -> None:
        self._queue, self._settings = queue, settings

    async def settle(self, claim: Claim, item: Transcript | Failure) -> None:
        """Every end of every job passes here."""
        try:
            if isinstance(item, Transcript):
                claim.advance("committing")
                await self._queue.commit(claim, item, _usage(claim, item))
            elif isinstance(item.error, Abandoned) and item.error.why is Why.CANCELLED:
                await self._queue.cancel(claim)
            elif isinstance(item.error, Abandoned | Unavailable):  # our doing, not the recording's
                await self._save(claim)
                away = isinstance(item.error, Unavailable)
                await self._queue.give_back(claim, retry_in=AWAY_SECONDS if away else 0.0)
            else:
                await self._fail(claim, Problem.of(item.error, stage=item.stage, attempt=claim.job.attempt))
        except Fenced:
            claim.abandon(Why.LEASE_LOST)
            raise

    async def _fail(self, claim: Claim, problem: Problem) -> None:
        if problem.retryable:
            await self._save(claim)
        await self._queue.fail(claim, problem, retry_in=self._retry_in(claim) if problem.retryable else None)

    async def _save(self, claim: Claim) -> None:
        """Spare the next attempt what the engine has said. Whether this one may write at all, its end will tell."""
        with suppress(Fenced, Unavailable):
            await save(self._queue, claim)

    def _retry_in(self, claim: Claim) -> float:
        """Seconds to the next attempt, doubling, ± 20 % so that jobs that failed together do not return together."""
        failures = claim.job.attempt - claim.job.losses
        pause = min(self._settings.retry_seconds * 2.0 ** min(failures - 1, 60), LONGEST_PAUSE_SECONDS)
        return jittered(pause)


def _usage(claim: Claim, transcript: Transcript) -> Usage:
    job, now = claim.job, datetime.now(UTC)
    began = job.started_at or now
    processing = (now - began).total_seconds()
    return Usage(
        media_seconds=transcript.duration,
        track_seconds=round(sum(t.duration for t in transcript.tracks if t.status != "duplicate"), 3),
        speech_seconds=round(sum(t.speech_seconds for t in transcript.tracks), 3),
        queue_seconds=round((began - job.created_at).total_seconds(), 3),
        processing_seconds=round(processing, 3),
        realtime_factor=round(processing / transcript.duration, 4) if transcript.duration else None,
    )

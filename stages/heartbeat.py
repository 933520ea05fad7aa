"""What keeps this replica's claims alive and tells it which of them are no longer its own."""

from __future__ import annotations

import anyio
import structlog
from anyio import current_time

from pipeline.claim import Claim, Why
from pipeline.jobs import Progress
from pipeline.settings import QueueSettings
from pipeline.store import JobQueue, Unavailable

log = structlog.get_logger()

REPORT_SECONDS = 1.0
"""Between writes of progress: what a person who watches a bar still feels as live."""

GIVE_UP_SHARE = 0.8
"""Of a lease without a beat: two may be lost and the third be late. Then its claim is dropped, while it is ours."""

CHECK_SHARE = 0.05
"""Of a lease between looks at how long ago the beats were."""


class Heartbeat:
    """Runs beside the chain, in tasks of its own, so that no full channel can delay a beat."""

    def __init__(self, queue: JobQueue, settings: QueueSettings) -> None:
        self._queue, self._settings = queue, settings
        self._beaten: dict[Claim, float] = {}
        self._reported: dict[Claim, tuple[Progress, float]] = {}

    def watch(self, claim: Claim) -> None:
        """Keep ``claim`` alive until it ends."""
        self._beaten[claim] = current_time()
        self._reported[claim] = _news(claim)
        claim.resources.callback(self._forget, claim)

    async def beat(self) -> None:
        """Renew all leases, for ever, and at once when one may have been cancelled.

        The answer is the truth: a claim that does not come back is lost.
        """
        while True:
            with anyio.move_on_after(self._settings.heartbeat_seconds):
                await self._queue.cancels()
            try:
                await self._renew()
            except Unavailable as error:
                log.warning("heartbeat-missed", error=str(error))

    async def expire(self) -> None:
        """Drop claims that have gone without a beat, for ever. ``beat`` cannot: it may be waiting for the store."""
        lease = self._settings.lease_seconds
        while True:
            await anyio.sleep(CHECK_SHARE * lease)
            for claim, beaten in self._beaten.items():
                if current_time() - beaten >= GIVE_UP_SHARE * lease:
                    _lose(claim)

    async def report(self) -> None:
        """Write progress and cost that have changed, for ever."""
        while True:
            await anyio.sleep(REPORT_SECONDS)
            changed = [claim for claim, told in self._reported.items() if _news(claim) != told]
            if not changed:
                continue
            told = {claim: _news(claim) for claim in changed}
            try:
                await self._queue.report(changed)
            except Unavailable:
                continue  # the next report says the same and more
            self._reported.update((claim, news) for claim, news in told.items() if claim in self._reported)

    async def _renew(self) -> None:
        claims = list(self._beaten)
        if not claims:
            return
        asked = current_time()
        answer = await self._queue.renew(claims, lease_seconds=self._settings.lease_seconds)
        for claim in claims:
            if claim not in self._beaten:
                continue  # it ended while the answer was on its way
            if claim.token in answer.cancelled:
                claim.abandon(Why.CANCELLED)
            elif claim.token not in answer.kept:
                _lose(claim)
            self._beaten[claim] = asked

    def _forget(self, claim: Claim) -> None:
        del self._beaten[claim], self._reported[claim]


def _news(claim: Claim) -> tuple[Progress, float]:
    return claim.progress, claim.engine_seconds


def _lose(claim: Claim) -> None:
    if claim.abandoned is not Why.LEASE_LOST:  # else that was told
        log.warning("lease-lost", job_id=str(claim.job.id), attempt=claim.job.attempt)
    claim.abandon(Why.LEASE_LOST)

"""Decoding: all files of one job in one pass on one thread, each frame to the tracks that it belongs to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing

import anyio
import structlog
from anyio import CapacityLimiter, from_thread, to_thread

from pipeline.claim import Claim
from pipeline.errors import Internal, JobError
from pipeline.transcript import Notice
from stages.clock import Clock, Hand
from stages.disk import Loan
from stages.lines import Line, Mix, Source
from stages.mediafile import MediaFile
from stages.spool import Spool
from stages.tracks import TrackPlan

log = structlog.get_logger()


class Decoding:
    """All files of one claim on their way into its spools, by one worker thread.

    ``judged``: what is decoded is not yet what is handed on, and its length not the job's.
    """

    def __init__(
        self,
        files: Sequence[MediaFile | JobError],
        plans: Sequence[TrackPlan],
        spools: Sequence[Spool],
        loan: Loan,
        *,
        notices: Iterable[Notice] = (),
        max_seconds: float,
        judged: bool,
    ) -> None:
        self._plans, self._max_seconds, self._judged = plans, max_seconds, judged
        self._files = {number: file for number, file in enumerate(files) if isinstance(file, MediaFile)}
        self._mixes = [
            Mix(plan.track.id, spool, loan, plan.error, list(plan.notices))
            for plan, spool in zip(plans, spools, strict=True)
        ]
        self._mixes[0].warnings += notices
        self._scope = anyio.CancelScope()
        self._stopped = anyio.Event()

    async def run(self, claim: Claim, threads: CapacityLimiter) -> None:
        try:
            with self._scope, claim.holding(self._scope):
                await to_thread.run_sync(self._decode, claim, limiter=threads)
        finally:
            self._stopped.set()

    async def stop(self) -> None:
        """Wait until the thread has let go of the files, however far it is."""
        self._scope.cancel()
        await self._stopped.wait()
        for mix in self._mixes:
            mix.spool.close()

    def _decode(self, claim: Claim) -> None:
        error: JobError | None = None
        try:
            sources = {number: self._sources(number) for number in self._files}
            for number, file in self._files.items():
                self._read(file, sources[number])
        except JobError as known:
            error = known
        except Exception as unforeseen:  # whatever it is, the spools' readers wait to be told
            log.exception("decoding-failed")
            error = _untold(unforeseen)
        from_thread.run_sync(self._finish, claim, error)

    def _finish(self, claim: Claim, error: JobError | None) -> None:
        """Progress of the job: all that its tracks have, now that it is known, and before one is passed over whole."""
        for mix in self._mixes:
            mix.finish(error)
        if not self._judged:
            total = sum(mix.spool.seconds for mix in self._mixes)
            claim.advance(claim.progress.stage, audio_seconds_total=round(total, 2))

    def _sources(self, number: int) -> dict[int, Source]:
        """Of one file, by the stream's number in it; streams that no track wants have no lines."""
        file = self._files[number]
        clock = Clock(file.stated)
        sources = {stream.number: Source(Hand(clock), self._max_seconds) for stream in file.streams}
        for plan, mix in zip(self._plans, self._mixes, strict=True):
            for feed in plan.feeds:
                if feed.file == number:
                    line = Line(feed, mix, sources[feed.stream])
                    line.source.lines.append(line)
                    mix.lines.append(line)
        return sources

    @staticmethod
    def _read(file: MediaFile, sources: Mapping[int, Source]) -> None:
        with closing(file):
            for packet in file.packets():
                from_thread.check_cancelled()
                source = sources[packet.stream.index]  # its own index is 0 where it flushes a decoder
                source.packets += bool(packet.size)
                if source.lines and source.fault is None:
                    for frame, time in file.frames(packet):
                        source.take(frame, time)
                else:
                    source.pass_over(*file.span(packet))
            wanted = {number: source for number, source in sources.items() if source.lines}
            empty = not any(source.packets for source in sources.values())
            for number, source in wanted.items():
                source.damaged = file.damaged[number]
                source.end(silent=not (source.packets or empty))
            if end := max(source.ends for source in sources.values()):
                next(iter(wanted.values())).lines[0].mix.warnings += file.notices(end)


def _untold(unforeseen: Exception) -> Internal:
    """What a client may know of it: a disk may have room again at the next attempt, a bug comes again."""
    if not isinstance(unforeseen, OSError):
        return Internal()
    reason = unforeseen.strerror or type(unforeseen).__name__
    detail = f"The service could not use its own disk: {reason}. Whoever runs it should look at the disk of DATA_DIR."
    return Internal(detail, retryable=True)

"""Media into tracks: opens a job's files, plans its tracks, and hands each on – while it is decoded, where it can be.

What must be known to the end of all tracks (two voices or stereo, duplicates, cross-talk) is judged before any is
handed on; only ``multitrack`` jobs that need it wait.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from math import ceil
from typing import Any, Final

import anyio
from anyio import CapacityLimiter, to_thread
from anyio.abc import TaskGroup

from pipeline.claim import Claim
from pipeline.errors import JobError
from pipeline.jobs import JobRequest
from pipeline.settings import AudioSettings, cores
from pipeline.stage import Split
from stages.decoding import Decoding
from stages.disk import Disk
from stages.judging import Judge
from stages.mediafile import MediaFile, StreamFacts, close_all, open_all
from stages.messages import Media, TrackAudio
from stages.spool import BYTES_PER_SECOND, Spool
from stages.tracks import Plan, TrackPlan, planned

ROUNDING_SECONDS: Final = 1.0  # the last frame of an encoder is full, however little is left for it

Files = Sequence[MediaFile | JobError]
Lengths = Mapping[tuple[int, int], float | None]  # seconds, by the number of a file and of a stream in it


class Demuxer(Split[Media, TrackAudio]):
    """Errors of decoding are the spools' ``error``; raised is only what concerns the whole job before it begins."""

    def __init__(self, settings: AudioSettings) -> None:
        self._settings = settings
        self._behind: TaskGroup
        self._threads: CapacityLimiter
        self._judges: CapacityLimiter
        self._disk: Disk

    def running(self) -> AbstractAsyncContextManager[Any]:
        self._threads = CapacityLimiter(cores())
        self._judges = CapacityLimiter(max(1, cores() - 1))  # a core is left to who listens to other jobs
        self._disk = Disk(self._settings.scratch_bytes)
        self._behind = anyio.create_task_group()
        return self._behind

    async def handle(self, claim: Claim, item: Media) -> AsyncGenerator[TrackAudio, None]:
        request = claim.job.request
        files = await to_thread.run_sync(open_all, item.paths)
        claim.resources.push_async_callback(_close, files)
        plan = planned(request, [_streams(file) for file in files], self._settings.max_tracks)
        claim.advance("demuxing", audio_seconds_total=_total(plan, files), tracks_total=len(plan.tracks))
        judged = _waits(request, plan)
        spools = await self._decode(claim, files, plan, judged=judged)
        if judged:
            tracks = await Judge(claim, self._settings, self._judges).tracks(plan.tracks, spools)
        else:
            pairs = zip(plan.tracks, spools, strict=True)
            tracks = tuple(TrackAudio(track.track, spool, of=len(spools)) for track, spool in pairs)
            claim.advance("demuxing", 1.0)
        for audio in tracks:
            yield audio

    async def _decode(self, claim: Claim, files: Files, plan: Plan, *, judged: bool) -> list[Spool]:
        """Begin to decode, and say into what. All that it takes is given back when the claim has ended."""
        loan = await self._disk.borrow(_scratch_bytes(plan, files, self._settings.max_seconds))
        claim.resources.callback(loan.give_back)
        spools = [Spool(claim.scratch / f"track-{number}.pcm") for number in range(len(plan.decoded))]
        decoding = Decoding(
            files,
            plan.decoded,
            spools,
            loan,
            notices=plan.notices,
            max_seconds=self._settings.max_seconds,
            judged=judged,
        )
        self._behind.start_soon(decoding.run, claim, self._threads)
        claim.resources.push_async_callback(decoding.stop)
        return spools


async def _close(files: Files) -> None:
    """Those that decoding has not closed: it has all, unless it was stopped or never began."""
    if left := [file for file in files if isinstance(file, MediaFile) and not file.closed]:
        await to_thread.run_sync(close_all, left)


def _streams(file: MediaFile | JobError) -> Sequence[StreamFacts]:
    return file.streams if isinstance(file, MediaFile) else (StreamFacts(0, error=file),)


def _waits(request: JobRequest, plan: Plan) -> bool:
    """Whether something must be known of the tracks that only their ends can tell."""
    if request.processing_mode != "multitrack":
        return False
    return any(track.sides for track in plan.tracks) or (len(plan.tracks) > 1 and request.crosstalk != "off")


def _total(plan: Plan, files: Files) -> float | None:
    """Seconds of all tracks together, by what their streams are said to have."""
    streams = ((number, stream) for number, file in enumerate(files) for stream in _streams(file))
    lengths = {(number, stream.number): stream.seconds for number, stream in streams}
    tracks = [_seconds(track, lengths) for track in plan.tracks]
    return None if None in tracks else round(sum(seconds for seconds in tracks if seconds), 2)


def _seconds(plan: TrackPlan, lengths: Lengths) -> float | None:
    """How long a track will be, by the lengths of streams."""
    ends = [(lengths[feed.file, feed.stream], feed.offset) for feed in plan.feeds]
    if any(length is None for length, _ in ends):
        return None
    return max((max(0.0, length + offset) for length, offset in ends if length is not None), default=0.0)


def _scratch_bytes(plan: Plan, files: Files, max_seconds: float) -> int:
    """What the tracks may take on disk: as long as the files surely are, or may at most be."""
    opened = ((number, file) for number, file in enumerate(files) if isinstance(file, MediaFile))
    lengths = {(number, stream.number): file.longest_seconds for number, file in opened for stream in file.streams}
    seconds = [_seconds(part, lengths) for part in plan.decoded]
    seconds += [_seconds(track, lengths) for track in plan.tracks if track.sides][:1]  # sides are joined one by one
    taken = (max_seconds if length is None else min(length + ROUNDING_SECONDS, max_seconds) for length in seconds)
    return ceil(sum(taken) * BYTES_PER_SECOND)

"""Media into tracks: opens a job's files, says what its tracks are made of, and hands each on while it is decoded."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

import anyio
from anyio import CapacityLimiter, to_thread
from anyio.abc import TaskGroup

from pipeline.claim import Claim
from pipeline.settings import AudioSettings, cores
from pipeline.stage import Split
from pipeline.transcript import Track
from stages.decoding import Decoding, Feed, TrackPlan
from stages.mediafile import MediaFile, open_all
from stages.messages import Media, TrackAudio
from stages.spool import Spool


class Demuxer(Split[Media, TrackAudio]):
    """Yields each track at once; its spool grows on behind it. Errors found later are the spool's ``error``."""

    def __init__(self, settings: AudioSettings) -> None:
        self._settings = settings
        self._behind: TaskGroup
        self._threads: CapacityLimiter

    def running(self) -> AbstractAsyncContextManager[Any]:
        self._threads = CapacityLimiter(cores())
        self._behind = anyio.create_task_group()
        return self._behind

    async def handle(self, claim: Claim, item: Media) -> AsyncGenerator[TrackAudio, None]:
        files = await to_thread.run_sync(open_all, item.paths)
        plans = downmix(files)
        spools = [Spool(claim.scratch / f"track-{plan.track.index}.pcm") for plan in plans]
        decoding = Decoding(files, plans, spools, self._settings.max_seconds)
        self._behind.start_soon(decoding.run, claim, self._threads)
        claim.resources.push_async_callback(decoding.stop)
        lengths = [file.declared for file in files if file.declared]
        claim.advance("demuxing", 1.0, audio_seconds_total=max(lengths, default=None), tracks_total=len(plans))
        for plan, spool in zip(plans, spools, strict=True):
            yield TrackAudio(plan.track, spool, of=len(plans))


def downmix(files: Sequence[MediaFile]) -> tuple[TrackPlan, ...]:
    """One track of everything: all audio streams of all files, from time 0 of each."""
    first = files[0].streams[0]
    tags = {key: value for key in ("title", "language") if (value := first.metadata.get(key, "und")) != "und"}
    codec, rate = first.codec_context.codec.canonical_name, first.codec_context.sample_rate
    track = Track(id="downmix", index=0, stream=None, channel=None, codec=codec, sample_rate=rate, metadata=tags)
    feeds = tuple(Feed(number, stream.index) for number, file in enumerate(files) for stream in file.streams)
    return (TrackPlan(track, feeds),)

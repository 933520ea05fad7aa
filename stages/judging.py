"""What only whole tracks can tell: which channels are voices, which tracks are twice there, who is heard on whose.

spools ─▶ speech (while they grow) ─▶ sides or one recording ─▶ duplicates ─▶ bleed
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Final

import anyio
import numpy as np
from anyio import CapacityLimiter, from_thread, to_thread

from pipeline.claim import Claim
from pipeline.settings import AudioSettings
from pipeline.transcript import Notice, Track
from stages.channels import Pair, compare, duplicates
from stages.crosstalk import Heard, find
from stages.likeness import stretch_of
from stages.messages import Bleed, TrackAudio
from stages.mixing import mean
from stages.speech import regions
from stages.spool import SAMPLE_RATE, Region, Spool
from stages.tracks import TrackPlan, check_count

MIXED_SECONDS: Final = 60  # of a stereo stream put together at once


@dataclass(frozen=True, slots=True, eq=False)
class Voice:
    """A track that was listened to from end to end."""

    track: Track
    spool: Spool
    speech: tuple[Region, ...]

    def twin_of(self, other: Voice) -> Voice:
        """The same track, found to hold the sound of another."""
        detail = f"It sounds the same as {other.track.id} and is not transcribed again."
        self.spool.warnings += (Notice(code="track-duplicate", track=self.track.id, detail=detail),)
        track = self.track.model_copy(update={"status": "duplicate", "duplicate_of": other.track.id})
        return replace(self, track=track)

    @property
    def heard(self) -> Heard:
        return Heard(self.track.id, self.spool, self.speech)

    @property
    def distinct(self) -> bool:
        """Whether there is something on it that was not heard before."""
        return self.spool.error is None and self.track.duplicate_of is None and bool(self.speech)


_Part = tuple[Spool, tuple[Region, ...]]


@dataclass(frozen=True, slots=True, eq=False)
class Judge:
    """Of one claim's tracks. ``threads``: for what takes minutes; hearing others' speech must not wait for it."""

    claim: Claim
    settings: AudioSettings
    threads: CapacityLimiter

    async def tracks(self, plans: Sequence[TrackPlan], spools: Sequence[Spool]) -> tuple[TrackAudio, ...]:
        """The tracks that ``plans`` turn out to be, in order; ``spools``: of each, or of its two sides.

        Waits until all spools have ended. Raises ``MediaTooLarge`` when there are too many tracks.
        """
        speech = await self._listen(spools)
        parts = zip(spools, speech, strict=True)
        voices: list[Voice] = []
        for plan in plans:
            if plan.sides:
                voices += await self._sides(plan, next(parts), next(parts))
            else:
                voices.append(Voice(plan.track, *next(parts)))
        check_count(len(voices), self.settings.max_tracks)
        voices = await self._twins_marked(voices)
        bleed = await self._bleed(voices) if self.claim.job.request.crosstalk != "off" else {}
        self._tell_length(voices)
        return tuple(
            TrackAudio(
                voice.track.model_copy(update={"index": index}),
                voice.spool,
                of=len(voices),
                speech=voice.speech,
                bleed=tuple(bleed.get(voice.track.id, ())),
            )
            for index, voice in enumerate(voices)
        )

    async def _listen(self, spools: Sequence[Spool]) -> list[tuple[Region, ...]]:
        """All speech of each spool, heard side by side while it grows."""
        speech: list[list[Region]] = [[] for _ in spools]

        async def listen(spool: Spool, found: list[Region]) -> None:
            async for region in regions(spool, self.settings):
                found.append(region)
                self._advance(spools)

        async with anyio.create_task_group() as group:
            for spool, found in zip(spools, speech, strict=True):
                group.start_soon(listen, spool, found)
        return [tuple(found) for found in speech]

    def _advance(self, spools: Sequence[Spool]) -> None:
        """Progress of the job: how far decoding has come. A track may have two spools, for its sides."""
        total, tracks = self.claim.progress.audio_seconds_total, self.claim.progress.tracks_total
        if total and tracks:
            self.claim.advance("demuxing", fmean(spool.seconds for spool in spools) / (total / tracks))

    def _tell_length(self, voices: Sequence[Voice]) -> None:
        """Progress of the job: all that its tracks have, now that it is known. Duplicates are not transcribed."""
        total = sum(voice.spool.seconds for voice in voices if voice.track.duplicate_of is None)
        self.claim.advance("demuxing", 1.0, audio_seconds_total=round(total, 2), tracks_total=len(voices))

    async def _sides(self, plan: TrackPlan, left: _Part, right: _Part) -> tuple[Voice, ...]:
        """Of a stream with two channels: two voices, one voice twice, or the whole stream as one track."""
        one, other = (Voice(side.track, *part) for side, part in zip(plan.sides, (left, right), strict=True))
        if one.spool.error:  # of the stream, so of both
            one.spool.warnings += plan.notices
            return (Voice(plan.track, one.spool, ()),)
        pair = await to_thread.run_sync(compare, one.heard, other.heard, limiter=self.threads)
        if pair is Pair.SAME:
            return one, other.twin_of(one)
        if pair is Pair.SIDES:
            return one, other
        spool = Spool(self.claim.scratch / f"track-{plan.track.stream}-mixed.pcm")
        await to_thread.run_sync(_mix, one.spool, other.spool, spool, limiter=self.threads)
        spool.warnings += plan.notices
        [speech] = await self._listen([spool])
        return (Voice(plan.track, spool, speech),)

    async def _twins_marked(self, tracks: Sequence[Voice]) -> list[Voice]:
        """The tracks, those that hold the sound of an earlier one marked as its duplicates."""
        distinct = [voice for voice in tracks if voice.distinct]
        spools = [voice.spool for voice in distinct]
        firsts = await to_thread.run_sync(duplicates, spools, limiter=self.threads)
        twins = {
            voice.track.id: voice.twin_of(distinct[first])
            for voice, first in zip(distinct, firsts, strict=True)
            if first is not None
        }
        return [twins.get(voice.track.id, voice) for voice in tracks]

    async def _bleed(self, tracks: Iterable[Voice]) -> Mapping[str, Sequence[Bleed]]:
        heard = [voice.heard for voice in tracks if voice.distinct]
        return await to_thread.run_sync(find, heard, limiter=self.threads)


def _mix(left: Spool, right: Spool, whole: Spool) -> None:
    """Make one track of two sides, which are erased. The longer one goes on alone where the other has ended."""
    start, end = round(min(left.begins, right.begins) * SAMPLE_RATE), max(left.length, right.length)
    for at in range(start, end, MIXED_SECONDS * SAMPLE_RATE):
        from_thread.check_cancelled()
        count = min(MIXED_SECONDS * SAMPLE_RATE, end - at)
        sides = np.stack([stretch_of(spool, at, count) for spool in (left, right)])
        whole.mix(at, np.round(mean(sides, SAMPLE_RATE) * (1 << 15)).astype(np.int16))
    whole.finish(warnings=left.warnings)  # the other side's are of the same stream
    left.erase()
    right.erase()

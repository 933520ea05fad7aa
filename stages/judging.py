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
from anyio import from_thread, to_thread

from pipeline.claim import Claim
from pipeline.settings import AudioSettings
from pipeline.transcript import Notice, Track
from stages.channels import Pair, compare, duplicates
from stages.crosstalk import Heard, find
from stages.messages import Bleed, TrackAudio
from stages.mixing import mean
from stages.speech import regions
from stages.spool import SAMPLE_RATE, Region, Spool
from stages.tracks import TrackPlan, check_count
from stages.voice import floats, threads

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


async def judged(
    claim: Claim, plans: Sequence[TrackPlan], spools: Sequence[Spool], settings: AudioSettings
) -> tuple[TrackAudio, ...]:
    """The tracks that ``plans`` turn out to be, in order; ``spools``: of each, or of its two sides.

    Waits until all spools have ended. Raises ``MediaTooLarge`` when there are too many tracks.
    """
    speech = await _listen(claim, spools, settings)
    parts = zip(spools, speech, strict=True)
    tracks: list[Voice] = []
    for plan in plans:
        if plan.sides:
            tracks += await _sides(claim, plan, next(parts), next(parts), settings)
        else:
            tracks.append(Voice(plan.track, *next(parts)))
    check_count(len(tracks), settings.max_tracks)
    tracks = await _twins_marked(tracks)
    bleed = await _bleed(tracks) if claim.job.request.crosstalk != "off" else {}
    return tuple(
        TrackAudio(
            voice.track.model_copy(update={"index": index}),
            voice.spool,
            of=len(tracks),
            speech=voice.speech,
            bleed=tuple(bleed.get(voice.track.id, ())),
        )
        for index, voice in enumerate(tracks)
    )


async def _listen(claim: Claim, spools: Sequence[Spool], settings: AudioSettings) -> list[tuple[Region, ...]]:
    """All speech of each spool, heard side by side while it grows."""
    speech: list[list[Region]] = [[] for _ in spools]

    async def listen(spool: Spool, found: list[Region]) -> None:
        async for region in regions(spool, settings):
            found.append(region)
            _advance(claim, spools)

    async with anyio.create_task_group() as group:
        for spool, found in zip(spools, speech, strict=True):
            group.start_soon(listen, spool, found)
    return [tuple(found) for found in speech]


def _advance(claim: Claim, spools: Sequence[Spool]) -> None:
    """Progress of the job: how far decoding has come. A track may have two spools, for its sides."""
    total, tracks = claim.progress.audio_seconds_total, claim.progress.tracks_total
    if total and tracks:
        claim.advance("demuxing", fmean(spool.seconds for spool in spools) / (total / tracks))


_Part = tuple[Spool, tuple[Region, ...]]


async def _sides(
    claim: Claim, plan: TrackPlan, left: _Part, right: _Part, settings: AudioSettings
) -> tuple[Voice, ...]:
    """Of a stream with two channels: two voices, one voice twice, or the whole stream as one track."""
    one, other = (Voice(side.track, *part) for side, part in zip(plan.sides, (left, right), strict=True))
    if one.spool.error:  # of the stream, so of both
        return (Voice(plan.track, one.spool, ()),)
    pair = await to_thread.run_sync(compare, one.heard, other.heard, limiter=threads())
    if pair is Pair.SAME:
        return one, other.twin_of(one)
    if pair is Pair.SIDES:
        return one, other
    spool = Spool(claim.scratch / f"track-{plan.track.stream}-mixed.pcm")
    await to_thread.run_sync(_mix, one.spool, other.spool, spool, limiter=threads())
    [speech] = await _listen(claim, [spool], settings)
    return (Voice(plan.track, spool, speech),)


def _mix(left: Spool, right: Spool, whole: Spool) -> None:
    """Make one track of two sides, which are erased. The longer one goes on alone where the other has ended."""
    start, end = round(min(left.begins, right.begins) * SAMPLE_RATE), max(left.length, right.length)
    for at in range(start, end, MIXED_SECONDS * SAMPLE_RATE):
        from_thread.check_cancelled()
        count = min(MIXED_SECONDS * SAMPLE_RATE, end - at)
        sides = np.zeros((2, count), np.float32)
        for side, spool in zip(sides, (left, right), strict=True):
            samples = spool.stretch(at, count)
            side[: len(samples)] = floats(samples)
        whole.mix(at, np.round(mean(sides, SAMPLE_RATE) * (1 << 15)).astype(np.int16))
    whole.finish(warnings=left.warnings)  # the other side's are of the same stream
    left.erase()
    right.erase()


async def _twins_marked(tracks: Sequence[Voice]) -> list[Voice]:
    """The tracks, those that hold the sound of an earlier one marked as its duplicates."""
    distinct = [voice for voice in tracks if voice.distinct]
    spools = [voice.spool for voice in distinct]
    firsts = await to_thread.run_sync(duplicates, spools, limiter=threads())
    twins = {
        voice.track.id: voice.twin_of(distinct[first])
        for voice, first in zip(distinct, firsts, strict=True)
        if first is not None
    }
    return [twins.get(voice.track.id, voice) for voice in tracks]


async def _bleed(tracks: Iterable[Voice]) -> Mapping[str, Sequence[Bleed]]:
    heard = [voice.heard for voice in tracks if voice.distinct]
    return await to_thread.run_sync(find, heard, limiter=threads())

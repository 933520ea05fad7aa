"""The tracks of a job, joined: one transcript in time order."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from anyio import to_thread

from pipeline.claim import Claim
from pipeline.jobs import JobRequest
from pipeline.stage import Gather
from pipeline.transcript import EngineInfo, Notice, Track, Transcript, text_of
from stages.messages import TrackTranscript
from stages.turns import turns


class Interleaver(Gather[TrackTranscript, Transcript]):
    def __init__(self, engine: EngineInfo) -> None:
        self._engine = engine

    async def handle(self, claim: Claim, item: TrackTranscript) -> Transcript | None:
        """Raises the first track's error when every track has failed, save those that only repeat another."""
        parts: list[TrackTranscript] = claim.held.setdefault(self, [])
        parts.append(item)
        claim.advance(claim.progress.stage, tracks_done=len(parts), tracks_total=item.of)
        if len(parts) < item.of:
            return None
        claim.advance("interleaving")
        parts.sort(key=lambda part: part.track.index)
        heard = [part for part in parts if part.track.duplicate_of is None]
        failed = [(part.track.id, part.error) for part in heard if part.error]
        if len(failed) == len(heard):
            track, error = failed[0]
            error.track = track
            raise error
        # Hours of words on many tracks would hold the loop.
        return await to_thread.run_sync(self._joined, claim.job.request, parts)

    def _joined(self, request: JobRequest, parts: Sequence[TrackTranscript]) -> Transcript:
        tracks = tuple(part.track for part in parts)
        segments = turns((part.segments for part in parts), words=request.word_timestamps)
        return Transcript(
            text=text_of(tracks, segments),
            language=_main_language(tracks),
            duration=max(round(track.start_offset + track.duration, 3) for track in tracks),
            processing_mode=request.processing_mode,
            tracks=tracks,
            segments=segments,
            warnings=tuple(notice for part in parts for notice in (*part.warnings, *_without_words(part))),
            engine=self._engine,
        )


def _without_words(part: TrackTranscript) -> Iterator[Notice]:
    if any(segment.words is None for segment in part.segments):
        detail = "The engine gives no times of words: what this track says is ordered by whole stretches of speech."
        yield Notice(code="no-word-times", track=part.track.id, detail=detail)


def _main_language(tracks: Sequence[Track]) -> str | None:
    """The language most of the speech is in."""
    spoken: dict[str, float] = defaultdict(float)
    for track in tracks:
        if track.language:
            spoken[track.language] += track.speech_seconds
    return max(spoken, key=lambda language: spoken[language], default=None)

"""The tracks of a job, joined: one transcript in time order."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from pipeline.claim import Claim
from pipeline.stage import Gather
from pipeline.transcript import EngineInfo, Segment, Track, Transcript, speakers
from stages.messages import TrackTranscript
from stages.turns import in_order


class Interleaver(Gather[TrackTranscript, Transcript]):
    def __init__(self, engine: EngineInfo) -> None:
        self._engine = engine

    async def handle(self, claim: Claim, item: TrackTranscript) -> Transcript | None:
        """Raises the first track's error when every track has failed."""
        parts: list[TrackTranscript] = claim.held.setdefault(self, [])
        parts.append(item)
        claim.advance(claim.progress.stage, tracks_done=len(parts), tracks_total=item.of)
        if len(parts) < item.of:
            return None
        claim.advance("interleaving")
        parts.sort(key=lambda part: part.track.index)
        if all(part.error for part in parts) and parts[0].error:
            raise parts[0].error
        return self._joined(claim, parts)

    def _joined(self, claim: Claim, parts: Sequence[TrackTranscript]) -> Transcript:
        request = claim.job.request
        tracks = tuple(part.track for part in parts)
        heard = (segment for part in parts for segment in part.segments)
        segments = in_order(heard, words=request.word_timestamps)
        return Transcript(
            text=_text(tracks, segments),
            language=_main_language(tracks),
            duration=max(track.duration for track in tracks),
            processing_mode=request.processing_mode,
            tracks=tracks,
            segments=segments,
            warnings=tuple(notice for part in parts for notice in part.warnings),
            engine=self._engine,
        )


def _text(tracks: Sequence[Track], segments: Sequence[Segment]) -> str:
    if names := speakers(tracks, segments):
        return "\n".join(f"{names[segment.track]}: {segment.text}" for segment in segments)
    return " ".join(segment.text for segment in segments)


def _main_language(tracks: Sequence[Track]) -> str | None:
    """The language most of the speech is in."""
    spoken: dict[str, float] = defaultdict(float)
    for track in tracks:
        if track.language:
            spoken[track.language] += track.speech_seconds
    return max(spoken, key=lambda language: spoken[language], default=None)

"""A track's audio into its words: one coroutine a track asks the room for window after window."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any

import anyio
import numpy as np
from anyio import Semaphore
from anyio.lowlevel import checkpoint

from pipeline.claim import Claim
from pipeline.errors import EngineFailed, JobError
from pipeline.jobs import JobRequest, Problem
from pipeline.settings import AudioSettings
from pipeline.stage import Map
from pipeline.transcript import Notice, Segment, Word
from stages.engines import Draft, Options, Window, WindowError
from stages.engines.room import ModelRoom
from stages.messages import TrackAudio, TrackTranscript
from stages.speech import regions
from stages.turns import utterances
from stages.windows import SpeechWindow, windows

NO_SAMPLES = np.zeros(0, np.float32)

BEAMS = {"fast": 1, "balanced": 5}
"""Beam widths: greedy, and the width that Whisper's command line and faster-whisper use."""


@dataclass(slots=True)
class _Heard:
    """What is known of one track so far; answers come in any order and are read in the order of the windows."""

    options: Options
    windows: list[SpeechWindow] = field(default_factory=list)
    answers: dict[int, Draft | WindowError] = field(default_factory=dict)
    language: str | None = None
    language_probability: float | None = None

    def settle_language(self, draft: Draft | WindowError) -> None:
        """The first window in which something was said speaks for the track; silence says nothing."""
        if isinstance(draft, Draft) and draft.words:
            self.language, self.language_probability = draft.language, draft.language_probability

    def drafts(self) -> Iterator[tuple[SpeechWindow, Draft]]:
        for n, window in enumerate(self.windows):
            answer = self.answers[n]
            if isinstance(answer, Draft):
                yield window, answer

    def error(self) -> JobError | None:
        broken = [answer for answer in self.answers.values() if isinstance(answer, WindowError)]
        return EngineFailed(f"{len(broken)} of {len(self.windows)} windows: {broken[0].detail}.") if broken else None


class Transcriber(Map[TrackAudio, TrackTranscript]):
    def __init__(self, room: ModelRoom, settings: AudioSettings) -> None:
        self._room, self._settings = room, settings

    def running(self) -> AbstractAsyncContextManager[Any]:
        return self._room.open()

    async def handle(self, claim: Claim, item: TrackAudio) -> TrackTranscript:
        """Errors of the audio and of the engine make the track a failed one; only the Interleaver fails the job."""
        request = claim.job.request
        _advance(claim, item, 0.0)
        heard = _Heard(_options(request), language=request.language)
        places = Semaphore(self._room.windows_per_track)
        async with (
            anyio.create_task_group() as group,
            aclosing(windows(item.spool, regions(item.spool, self._settings))) as found,
        ):
            async for window in found:
                n = len(heard.windows)
                heard.windows.append(window)
                if heard.language is None:
                    await self._ask(claim, item, heard, n)
                    heard.settle_language(heard.answers[n])
                    continue
                await places.acquire()
                group.start_soon(self._ask, claim, item, heard, n, places)
        _advance(claim, item, item.spool.seconds)
        segments = tuple([segment async for segment in _segments(item, heard)])
        return _transcript(item, heard, segments, item.spool.error or heard.error())

    async def _ask(self, claim: Claim, item: TrackAudio, heard: _Heard, n: int, place: Semaphore | None = None) -> None:
        window = heard.windows[n]
        options = replace(heard.options, language=heard.language)
        heard.answers[n] = await self._room.ask(Window(window.samples, options))
        heard.windows[n] = replace(window, samples=NO_SAMPLES)  # a long track has more windows than memory
        _advance(claim, item, window.passed)
        if place:
            place.release()


def _options(request: JobRequest) -> Options:
    return Options(
        task="translate" if request.target_language else "transcribe",
        prompt=request.prompt,
        beam=BEAMS[request.quality],
    )


def _advance(claim: Claim, item: TrackAudio, passed: float) -> None:
    """Progress of the job: seconds passed over, summed over its tracks."""
    tracks: dict[str, float] = claim.held.setdefault("passed", {})
    tracks[item.track.id] = max(passed, tracks.get(item.track.id, 0.0))
    done, total = sum(tracks.values()), claim.progress.audio_seconds_total
    part = done / total if total else 0.0
    claim.advance("transcribing", part, audio_seconds_done=round(done, 2))


def _transcript(
    item: TrackAudio, heard: _Heard, segments: tuple[Segment, ...], error: JobError | None
) -> TrackTranscript:
    confidences = [segment.confidence for segment in segments if segment.confidence is not None]
    spoken = heard.language if segments else None
    track = item.track.model_copy(
        update={
            "duration": round(item.spool.seconds, 3),
            "speech_seconds": round(sum(window.seconds for window in heard.windows), 3),
            "language": spoken,
            "language_probability": _rounded(heard.language_probability) if spoken else None,
            "confidence": round(fmean(confidences), 3) if confidences else None,
            "status": "failed" if error else "transcribed" if segments else "silent",
            "error": Problem.of(error, stage="transcriber").model_dump(mode="json") if error else None,
        }
    )
    warnings = item.spool.warnings
    if error:
        warnings = (*warnings, Notice(code="track-failed", track=track.id, detail=error.detail))
    elif not segments:
        warnings = (*warnings, Notice(code="track-silent", track=track.id, detail="Nothing was said on this track."))
    return TrackTranscript(track, segments, warnings, item.of, error)


async def _segments(item: TrackAudio, heard: _Heard) -> AsyncIterator[Segment]:
    """Utterances never join windows, so each has the numbers of the one window it was heard in."""
    n, reached = 0, 0.0
    for window, draft in heard.drafts():
        await checkpoint()  # hours of words must not hold the loop
        for words in utterances(_on_the_clock(window, draft, item.spool.seconds, reached)):
            yield Segment(
                id=n,
                track=item.track.id,
                start=words[0].start,
                end=words[-1].end,
                text="".join(word.word for word in words),
                language=draft.language,
                confidence=round(fmean(word.confidence for word in words), 3),
                avg_logprob=_rounded(draft.avg_logprob),
                no_speech_prob=_rounded(draft.no_speech_prob),
                compression_ratio=_rounded(draft.compression_ratio),
                words=words,
            )
            n, reached = n + 1, words[-1].end


def _on_the_clock(window: SpeechWindow, draft: Draft, duration: float, reached: float) -> Sequence[Word]:
    """A window's words at their times in the media: monotone, after ``reached`` and inside the recording."""
    words = []
    for word in draft.words:
        start, end = window.span(word.start, word.end)
        start = min(max(reached, start), duration)
        end = min(max(start, end), duration)
        words.append(
            Word(word=word.word, start=round(start, 3), end=round(end, 3), confidence=round(word.confidence, 3))
        )
        reached = end
    return words


def _rounded(number: float | None) -> float | None:
    return None if number is None else round(number, 3)

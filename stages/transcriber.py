"""A track's audio into its words: one coroutine a track asks the room for window after window."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby
from statistics import fmean
from typing import Any

import anyio
from anyio import Semaphore
from anyio.lowlevel import checkpoint

from pipeline.claim import Claim
from pipeline.errors import EngineFailed, JobError
from pipeline.jobs import JobRequest, Problem
from pipeline.settings import AudioSettings
from pipeline.stage import Map
from pipeline.transcript import Crosstalk, Notice, Segment, Word
from stages.bleed import own_speech, suppressed, whose
from stages.engines import Draft, Options, Window, WindowError
from stages.engines.room import ModelRoom
from stages.messages import Bleed, TrackAudio, TrackTranscript
from stages.speech import regions
from stages.spool import SAMPLE_RATE, Region, Spool
from stages.turns import utterances
from stages.windows import SpeechWindow, windows

BEAMS = {"fast": 1, "balanced": 5}
"""Beam widths: greedy, and the width that Whisper's command line and faster-whisper use."""


@dataclass(slots=True)
class _Heard:
    """What is known of one track so far; answers come in any order and are read in the order of the windows.

    Of its bleed, ``left_out`` is kept from the engine, and ``marked`` is told of in what the engine said.
    """

    options: Options
    left_out: tuple[Bleed, ...]
    marked: tuple[Bleed, ...]
    windows: list[SpeechWindow] = field(default_factory=list)
    answers: dict[int, Draft | WindowError] = field(default_factory=dict)
    language: str | None = None
    language_probability: float | None = None

    def settle_language(self, draft: Draft | WindowError) -> None:
        """The first window in which something was said speaks for the track; silence says nothing."""
        if isinstance(draft, Draft) and draft.text:
            self.language, self.language_probability = draft.language, draft.language_probability

    def drafts(self) -> Iterator[tuple[SpeechWindow, Draft]]:
        for n, window in enumerate(self.windows):
            answer = self.answers[n]
            if isinstance(answer, Draft):
                yield window, answer

    def error(self) -> JobError | None:
        broken = [answer for answer in self.answers.values() if isinstance(answer, WindowError)]
        return EngineFailed(f"{len(broken)} of {len(self.windows)} windows: {broken[0].detail}.") if broken else None


@dataclass(frozen=True, slots=True)
class _Utterance:
    """Something said in one breath. Seconds on the media's clock; ``words`` None where the engine gives none."""

    start: float
    end: float
    text: str
    words: tuple[Word, ...] | None
    crosstalk: Crosstalk | None


class Transcriber(Map[TrackAudio, TrackTranscript]):
    def __init__(self, room: ModelRoom, settings: AudioSettings) -> None:
        self._room, self._settings = room, settings

    def running(self) -> AbstractAsyncContextManager[Any]:
        return self._room.open()

    async def handle(self, claim: Claim, item: TrackAudio) -> TrackTranscript:
        """Errors of the audio and of the engine make the track a failed one; only the Interleaver fails the job."""
        if item.track.duplicate_of:
            _advance(claim, item, item.spool.seconds)
            return _passed_on(item)
        _advance(claim, item, 0.0)
        heard = _beginning(item, claim.job.request)
        await self._listen(claim, item, heard)
        _advance(claim, item, item.spool.seconds)
        segments = tuple([segment async for segment in _segments(item, heard)])
        return _transcript(item, heard, segments, item.spool.error or heard.error())

    async def _listen(self, claim: Claim, item: TrackAudio, heard: _Heard) -> None:
        """Ask one window at a time until the language is settled, by a voice of the track's own, and then several."""
        places = Semaphore(self._room.windows_per_track)
        async with (
            anyio.create_task_group() as group,
            aclosing(windows(item.spool, self._speech(item, heard))) as found,
        ):
            async for window in found:
                n = len(heard.windows)
                heard.windows.append(window)
                options = replace(heard.options, language=heard.language)
                if heard.language is None and not whose(window.regions, heard.marked):
                    await self._ask(claim, item, heard, n, options)
                    heard.settle_language(heard.answers[n])
                    continue
                await places.acquire()
                group.start_soon(self._ask, claim, item, heard, n, options, places)

    def _speech(self, item: TrackAudio, heard: _Heard) -> AsyncGenerator[Region, None]:
        if item.speech is None:
            return regions(item.spool, self._settings)
        return _each(own_speech(item.speech, heard.left_out))

    async def _ask(
        self, claim: Claim, item: TrackAudio, heard: _Heard, n: int, options: Options, place: Semaphore | None = None
    ) -> None:
        window = heard.windows[n]
        heard.answers[n] = await self._room.ask(partial(_read, window, item.spool, heard.left_out, options))
        _advance(claim, item, window.passed)
        if place:
            place.release()


async def _each(found: Iterable[Region]) -> AsyncGenerator[Region, None]:
    for region in found:
        yield region


async def _read(window: SpeechWindow, spool: Spool, left_out: Sequence[Bleed], options: Options) -> Window:
    return Window(await window.samples(spool, left_out), options)


def _beginning(item: TrackAudio, request: JobRequest) -> _Heard:
    options = Options(
        task="translate" if request.target_language else "transcribe",
        prompt=request.prompt,
        beam=BEAMS[request.quality],
    )
    return _Heard(
        options,
        left_out=item.bleed if request.crosstalk == "suppress" else (),
        marked=item.bleed if request.crosstalk == "mark" else (),
        language=item.track.language or request.language,
    )


def _advance(claim: Claim, item: TrackAudio, passed: float) -> None:
    """Progress of the job: seconds passed over, summed over its tracks, and never more than it was said to have."""
    tracks: dict[str, float] = claim.held.setdefault("passed", {})
    tracks[item.track.id] = max(passed, tracks.get(item.track.id, 0.0))
    done, total = sum(tracks.values()), claim.progress.audio_seconds_total
    part = done / total if total else 0.0
    claim.advance("transcribing", part, audio_seconds_done=round(min(done, total or done), 2))


async def _segments(item: TrackAudio, heard: _Heard) -> AsyncGenerator[Segment, None]:
    """Utterances never join windows, so each has the numbers of the one window it was heard in."""
    n = 0
    reached, ends = _extent(item.spool)
    for window, draft in heard.drafts():
        await checkpoint()  # hours of words must not hold the loop
        for said in _said(window, draft, heard.marked, reached, ends):
            yield Segment(
                id=n,
                track=item.track.id,
                start=said.start,
                end=said.end,
                text=said.text,
                language=draft.language,
                confidence=_mean(word.confidence for word in said.words or ()),
                avg_logprob=_rounded(draft.avg_logprob),
                no_speech_prob=_rounded(draft.no_speech_prob),
                compression_ratio=_rounded(draft.compression_ratio),
                crosstalk=said.crosstalk,
                words=said.words,
            )
            n, reached = n + 1, said.end


def _said(
    window: SpeechWindow, draft: Draft, marked: Sequence[Bleed], reached: float, ends: float
) -> Iterator[_Utterance]:
    """A window's utterances, each of one voice; from an engine without times of words the whole window is one."""
    if draft.text and not draft.words:
        start, end = (round(min(max(reached, time), ends), 3) for time in (window.begins, window.passed))
        yield _Utterance(start, end, draft.text, None, whose(window.regions, marked))
    timed = _on_the_clock(window, draft, reached, ends)
    for _, run in groupby(timed, key=lambda word: _source(word, marked)):
        for words in utterances(tuple(run)):
            voice = whose(map(_region, words), marked)
            yield _Utterance(words[0].start, words[-1].end, "".join(word.word for word in words), words, voice)


def _on_the_clock(window: SpeechWindow, draft: Draft, reached: float, ends: float) -> Iterator[Word]:
    """A window's words at their times in the media: monotone, after ``reached`` and before the track ``ends``."""
    for word in draft.words:
        start, end = window.span(word.start, word.end)
        start = min(max(reached, start), ends)
        end = min(max(start, end), ends)
        yield Word(word=word.word, start=round(start, 3), end=round(end, 3), confidence=round(word.confidence, 3))
        reached = end


def _source(word: Word, marked: Sequence[Bleed]) -> str | None:
    """The track whose voice it is, where that is not its own."""
    voice = whose([_region(word)], marked)
    return voice.source if voice else None


def _region(word: Word) -> Region:
    start = round(word.start * SAMPLE_RATE)
    return Region(start, max(round(word.end * SAMPLE_RATE), start + 1))  # a word without length lies somewhere too


def _passed_on(item: TrackAudio) -> TrackTranscript:
    """A duplicate: the engine is not asked what the other track says already."""
    begins, ends = _extent(item.spool)
    facts = {"status": "duplicate", "language": None, "start_offset": begins, "duration": round(ends - begins, 3)}
    return TrackTranscript(item.track.model_copy(update=facts), (), item.spool.warnings, item.of)


def _transcript(
    item: TrackAudio, heard: _Heard, segments: tuple[Segment, ...], error: JobError | None
) -> TrackTranscript:
    begins, ends = _extent(item.spool)
    spoken = heard.language if segments else None
    track = item.track.model_copy(
        update={
            "start_offset": begins,
            "duration": round(ends - begins, 3),
            "speech_seconds": round(sum(window.seconds for window in heard.windows), 3),
            "language": spoken,
            "language_probability": _rounded(heard.language_probability) if spoken else None,
            "confidence": _mean(segment.confidence for segment in segments if segment.confidence is not None),
            "status": "failed" if error else "transcribed" if segments else "silent",
            "error": _problem(item, error).model_dump(mode="json") if error else None,
        }
    )
    return TrackTranscript(track, segments, _warnings(item, heard, segments, error), item.of, error)


def _problem(item: TrackAudio, error: JobError) -> Problem:
    return Problem.of(error, stage="demuxer" if error is item.spool.error else "transcriber")


def _warnings(
    item: TrackAudio, heard: _Heard, segments: Sequence[Segment], error: JobError | None
) -> tuple[Notice, ...]:
    track, warnings = item.track.id, [*item.spool.warnings]
    if heard.left_out:
        warnings.append(suppressed(track, heard.left_out))
    if error:
        warnings.append(Notice(code="track-failed", track=track, detail=error.detail))
    elif not segments:
        but = " but by voices of other tracks, which were left out" if heard.left_out else ""
        warnings.append(Notice(code="track-silent", track=track, detail=f"Nothing was said on this track{but}."))
    return tuple(warnings)


def _extent(spool: Spool) -> tuple[float, float]:
    """Where a track begins and ends on the media's clock, in seconds, to the millisecond as all times are told."""
    return round(min(spool.begins, spool.seconds), 3), round(spool.seconds, 3)


def _mean(confidences: Iterable[float]) -> float | None:
    known = [*confidences]
    return round(fmean(known), 3) if known else None


def _rounded(number: float | None) -> float | None:
    return None if number is None else round(number, 3)

"""The engine's answers for one track, and the transcript that they come to."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, groupby
from math import exp
from statistics import fmean
from typing import Final

from anyio.lowlevel import checkpoint

from pipeline.errors import EngineFailed, JobError
from pipeline.jobs import Problem
from pipeline.transcript import Crosstalk, Notice, Segment, Track, Word
from stages.bleed import suppressed, whose
from stages.engines import Draft, WindowError
from stages.messages import Bleed, TrackAudio, TrackTranscript
from stages.readings import Read
from stages.spool import SAMPLE_RATE, Region
from stages.turns import utterances
from stages.windows import SpeechWindow

BEFORE_CHARACTERS: Final = 1000
"""Of the text before a window: about as much as the 223 tokens hold that Whisper has room for."""

LISTED: Final = 20
"""Places that a warning lists."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What was heard in a window."""

    window: SpeechWindow
    read: Read

    def with_language_of(self, whole: Draft) -> Answer:
        """The same of a part, which was told the language that the whole was found to be in."""
        part = self.read.answer
        if isinstance(part, WindowError):
            return self
        known = replace(part, language_probability=whole.language_probability)
        return replace(self, read=replace(self.read, answer=known))


@dataclass(slots=True)
class Answers:
    """What is known of one track so far; answers are given in any order and read in the order of the windows.

    A window that was heard in pieces has an answer for each of them.

    Of its bleed, ``left_out`` is kept from the engine, and ``marked`` is told of in what the engine said.
    """

    item: TrackAudio
    language: str | None
    left_out: tuple[Bleed, ...] = ()
    marked: tuple[Bleed, ...] = ()
    language_probability: float | None = None
    windows: list[SpeechWindow] = field(default_factory=list)
    given: dict[int, Sequence[Answer]] = field(default_factory=dict)

    def settle_language(self, n: int) -> None:
        """The first window in which something was said speaks for the track; silence says nothing."""
        drafts = (answer.read.answer for answer in self.given[n])
        said = next((draft for draft in drafts if isinstance(draft, Draft) and draft.text), None)
        if said:
            self.language, self.language_probability = said.language, said.language_probability

    def before(self) -> str | None:
        """The end of what has been said, once all windows so far have their answers.

        Text from before a doubtful window is not used again, lest a fault be carried on: openai/whisper, which has this
        as prompt_reset_since, and faster-whisper as prompt_reset_on_temperature, forget it above a temperature of 0.5.
        """
        said: list[str] = []
        for n in reversed(range(len(self.windows))):
            if len(self.given[n]) > 1 or any(answer.read.is_doubtful for answer in self.given[n]):
                break
            said[:0] = [draft.text for _, draft in _drafts(self.given[n])]
            if sum(map(len, said)) >= BEFORE_CHARACTERS:
                break
        return " ".join(filter(None, said))[-BEFORE_CHARACTERS:] or None

    async def transcript(self) -> TrackTranscript:
        """What all windows come to, once each has its answer."""
        segments = tuple([segment async for segment in self._segments()])
        error = self.item.spool.error or self._error()
        return TrackTranscript(
            self._track(segments, error), segments, self._warnings(segments, error), self.item.of, error
        )

    def _in_order(self) -> Iterator[Answer]:
        return chain.from_iterable(self.given[n] for n in range(len(self.windows)))

    def _error(self) -> JobError | None:
        broken = [heard for answer in self._in_order() if isinstance(heard := answer.read.answer, WindowError)]
        if not broken:
            return None
        which = f"{len(broken)} of {len(self.windows)} windows" if len(self.windows) > 1 else "Its only window"
        return EngineFailed(f"{which}: {broken[0].detail}.")

    def _track(self, segments: Sequence[Segment], error: JobError | None) -> Track:
        # Where bleed fills most of every window, no window spoke for the track.
        own = next((segment.language for segment in segments if segment.crosstalk is None), None)
        spoken = (self.language or own) if segments else None
        stage = "demuxer" if self.item.spool.error else "transcriber"
        facts = {
            "speech_seconds": round(sum(window.seconds for window in self.windows), 3),
            "language": spoken,
            "language_probability": _rounded(self.language_probability) if spoken else None,
            "confidence": _mean(segment.confidence for segment in segments if segment.confidence is not None),
            "status": "failed" if error else "transcribed" if segments else "silent",
            "error": Problem.of(error, stage=stage).model_dump(mode="json") if error else None,
        }
        return _placed(self.item).model_copy(update=facts)

    async def _segments(self) -> AsyncGenerator[Segment, None]:
        """Utterances never join windows, so each has the numbers of the one window it was heard in."""
        n, reached = 0, _placed(self.item).start_offset
        for window, draft in _drafts(self._in_order()):
            await checkpoint()  # hours of words must not hold the loop
            for said in _said(window, draft, self.marked, reached):
                yield Segment(
                    id=n,
                    track=self.item.track.id,
                    start=said.start,
                    end=said.end,
                    text=said.text,
                    language=draft.language,
                    confidence=_confidence(said.words, draft),
                    avg_logprob=_rounded(draft.avg_logprob),
                    no_speech_prob=_rounded(draft.no_speech_prob),
                    compression_ratio=_rounded(draft.compression_ratio),
                    crosstalk=said.crosstalk,
                    words=said.words,
                )
                n, reached = n + 1, said.end

    def _warnings(self, segments: Sequence[Segment], error: JobError | None) -> tuple[Notice, ...]:
        track, warnings = self.item.track.id, [*self.item.spool.warnings]
        if self.left_out:
            warnings.append(suppressed(track, self.left_out))
        warnings += _doubts(track, [*self._in_order()])
        if error:
            warnings.append(Notice(code="track-failed", track=track, detail=error.detail))
        elif not segments:
            but = " but by voices of other tracks, which were left out" if self.left_out else ""
            warnings.append(Notice(code="track-silent", track=track, detail=f"Nothing was said on this track{but}."))
        return tuple(warnings)


def _drafts(answers: Iterable[Answer]) -> Iterator[tuple[SpeechWindow, Draft]]:
    for answer in answers:
        if isinstance(answer.read.answer, Draft):
            yield answer.window, answer.read.answer


def _doubts(track: str, answers: Sequence[Answer]) -> Iterator[Notice]:
    """What of a track is not told, or not to its end, and where; one notice of each kind."""
    dropped = [answer.window for answer in answers if answer.read.dropped]
    if dropped:
        detail = f"What the model made up, by its own numbers, was left out: {_places(dropped)}."
        yield Notice(code="hallucination-dropped", track=track, detail=detail)
    cut = [window for window, draft in _drafts(answers) if draft.cut and draft.text]
    if cut:
        detail = f"More was said than the model can write at once, and the end is missing: {_places(cut)}."
        yield Notice(code="text-cut", track=track, detail=detail)


def _places(windows: Sequence[SpeechWindow]) -> str:
    count = "1 passage" if len(windows) == 1 else f"{len(windows)} passages"
    places = [f"{window.begins:.2f}-{window.passed:.2f} s" for window in windows[:LISTED]]
    if len(windows) > LISTED:
        places.append(f"{len(windows) - LISTED} more")
    return f"{count}, {', '.join(places)}"


def passed_on(item: TrackAudio) -> TrackTranscript:
    """The transcript of a duplicate: its words are those of another track, and are told there."""
    track = _placed(item).model_copy(update={"status": "duplicate", "language": None})
    return TrackTranscript(track, (), item.spool.warnings, item.of)


@dataclass(frozen=True, slots=True)
class _Utterance:
    """Something said at a stretch. Seconds on the media's clock; ``words`` None where the engine gives none."""

    start: float
    end: float
    text: str
    words: tuple[Word, ...] | None
    crosstalk: Crosstalk | None


def _said(window: SpeechWindow, draft: Draft, marked: Sequence[Bleed], reached: float) -> Iterator[_Utterance]:
    """A window's utterances, each of one voice; from an engine without times of words the whole window is one."""
    if draft.text and not draft.words:
        start, end = (round(max(reached, time), 3) for time in (window.begins, window.passed))
        yield _Utterance(start, end, draft.text, None, whose(window.regions, marked))
    timed = _on_the_clock(window, draft, reached)
    for _, run in groupby(timed, key=lambda word: _source(word, marked)):
        for words in utterances(tuple(run)):
            voice = whose(map(_region, words), marked)
            yield _Utterance(words[0].start, words[-1].end, "".join(word.word for word in words), words, voice)


def _on_the_clock(window: SpeechWindow, draft: Draft, reached: float) -> Iterator[Word]:
    """A window's words at their times in the media: inside the window, monotone and after ``reached``."""
    for word in draft.words:
        start, end = (max(reached, time) for time in window.span(word.start, word.end))
        end = max(start, end)
        yield Word(word=word.word, start=round(start, 3), end=round(end, 3), confidence=round(word.confidence, 3))
        reached = end


def _source(word: Word, marked: Sequence[Bleed]) -> str | None:
    """The track whose voice it is, where that is not its own."""
    voice = whose([_region(word)], marked)
    return voice.source if voice else None


def _region(word: Word) -> Region:
    start = round(word.start * SAMPLE_RATE)
    return Region(start, max(round(word.end * SAMPLE_RATE), start + 1))  # a word without length lies somewhere too


def _placed(item: TrackAudio) -> Track:
    """The track with its true place on the media's clock, to the millisecond as all times are told."""
    begins, ends = round(min(item.spool.begins, item.spool.seconds), 3), round(item.spool.seconds, 3)
    return item.track.model_copy(update={"start_offset": begins, "duration": round(ends - begins, 3)})


def _confidence(words: Sequence[Word] | None, draft: Draft) -> float | None:
    """The mean of the words' confidences, each of which is the mean probability that the model gives its tokens.

    Without words the geometric mean of all tokens' probabilities, which is what avg_logprob is the logarithm of.
    """
    if words:
        return _mean(word.confidence for word in words)
    return None if draft.avg_logprob is None else _rounded(min(1.0, exp(draft.avg_logprob)))


def _mean(confidences: Iterable[float]) -> float | None:
    known = [*confidences]
    return round(fmean(known), 3) if known else None


def _rounded(number: float | None) -> float | None:
    return None if number is None else round(number, 3)

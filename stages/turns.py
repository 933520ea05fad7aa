"""Words into utterances, and the utterances of all tracks into one transcript's turns.

ann  ▇▇▇▇▇▇▇     ▇▇▇▇▇▇▇         a remark in a pause does not end a sentence:
bob           ▇                  ann has one turn, and bob's lies within it

ann  ▇▇▇▇▇▇▇▇▇▇ ▇▇▇▇▇▇▇▇▇▇▇▇     a question at length takes the floor: ann's turn
bob          ▇▇▇▇▇▇▇▇▇           ends in her next pause, and goes on as another

ann  ▇▇▇▇▇▇▇▇▇▇ ▇▇▇▇▇▇           who only ends a sentence while the next one
bob          ▇▇▇▇▇▇▇▇▇▇▇▇▇       begins is not cut: two turns that overlap
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, pairwise
from operator import attrgetter
from statistics import fmean
from typing import Final

from pipeline.transcript import Segment, Word
from stages.talk import GAP_SECONDS, REMARK_SECONDS, Talk, overlaps

LONG_SECONDS: Final = 7.0
"""Beyond this an utterance ends with its sentence; the longest that subtitle guides let a line stand."""

HELD_SECONDS: Final = 2.0
"""The longest pause in which somebody who stopped within a sentence still has the floor."""

BREAK_SECONDS: Final = 0.2
"""The shortest silence that listeners take for a pause; shorter ones belong to how words are spoken."""

SENTENCE_ENDS: Final = tuple(".?!…。？！।")

UNSPACED: Final = re.compile(
    "[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u3000-\u30ff\u3400-\u9fff\uf900-\ufaff\uff00-\uff9f]{2}"
)
"""Two characters of scripts with no space between words: Thai, Lao, Tibetan, Burmese, Khmer, Japanese, Chinese."""


def utterances(words: Sequence[Word]) -> Iterator[tuple[Word, ...]]:
    """Cut one track's words, in time order, where the speaker pauses. No word is lost, doubled or moved."""
    held: list[Word] = []
    for word in words:
        if held and _ends(held, word):
            yield _opened(held)
            held = []
        held.append(word)
    if held:
        yield _opened(held)


def turns(tracks: Iterable[Sequence[Segment]], *, words: bool) -> tuple[Segment, ...]:
    """The utterances of each track, in time order, as turns of all: numbered from 0, with their words or without.

    Turns are ordered by their start; those that start together, as their tracks are in ``tracks``. No word is lost,
    doubled or moved to another track. What has no words, or is another track's voice (``crosstalk``), is neither
    joined nor cut.
    """
    by_track = {track[0].track: track for track in tracks if track}
    talk = Talk.of(by_track)
    sentences = chain.from_iterable(_sentences(track, talk) for track in by_track.values())
    pieces = chain.from_iterable(_cut(sentence, talk) for sentence in sentences)
    ordered = sorted(pieces, key=attrgetter("start"))  # of equal starts the first stays first
    less: dict[str, None] = {} if words else {"words": None}
    return tuple(
        turn.model_copy(update={"id": n, "overlaps": tuple(others), **less})
        for n, (turn, others) in enumerate(zip(ordered, overlaps(ordered), strict=True))
    )


def _ends(held: Sequence[Word], following: Word) -> bool:
    if following.start - held[-1].end > GAP_SECONDS:
        return True
    return held[-1].end - held[0].start > LONG_SECONDS and held[-1].word.endswith(SENTENCE_ENDS)


def _sentences(track: Iterable[Segment], talk: Talk) -> Iterator[Segment]:
    """The utterances of a track, but as one those that only others' remarks have parted."""
    held: list[Segment] = []
    for segment in track:
        if held and not _goes_on(held, segment, talk):
            yield _joined(held)
            held = []
        held.append(segment)
    if held:
        yield _joined(held)


def _goes_on(held: Sequence[Segment], after: Segment, talk: Talk) -> bool:
    """Whether a sentence goes on after a pause that others filled with remarks, none longer than it was itself."""
    before, seconds = held[-1], held[-1].end - held[0].start
    within = (
        bool(before.words and after.words)
        and not (before.crosstalk or after.crosstalk)
        and before.language == after.language
        and not before.text.endswith(SENTENCE_ENDS)
        and after.start - before.end <= HELD_SECONDS
    )
    heard = talk.others(before.track, before.end, after.start) if within else ()
    return bool(heard) and all(said.seconds <= min(seconds, REMARK_SECONDS) for said in heard)


def _joined(parts: Sequence[Segment]) -> Segment:
    if len(parts) == 1:
        return parts[0]
    words: list[Word] = []
    for part in parts:
        words.extend(_resumed(words, part.words or ()))
    return _with(words, parts[0]).model_copy(
        update={
            "avg_logprob": _mean((part.avg_logprob, part) for part in parts),
            "no_speech_prob": _mean((part.no_speech_prob, part) for part in parts),
            "compression_ratio": _mean((part.compression_ratio, part) for part in parts),
        }
    )


def _mean(numbers: Iterable[tuple[float | None, Segment]]) -> float | None:
    """Weighted by words, over the parts for which the number is known."""
    known = [(number, len(part.words or ())) for number, part in numbers if number is not None]
    return round(fmean((number for number, _ in known), (weight for _, weight in known)), 3) if known else None


def _resumed(before: Sequence[Word], words: Sequence[Word]) -> Sequence[Word]:
    """Words that go on after others: the first gets back the space that it lost when it opened a segment."""
    if not before or UNSPACED.fullmatch(before[-1].word[-1:] + words[0].word[:1]):
        return words
    return (words[0].model_copy(update={"word": f" {words[0].word}"}), *words[1:])


def _cut(turn: Segment, talk: Talk) -> Iterator[Segment]:
    """A turn in pieces: one break for each time that others take the floor and give it back, if it pauses for them."""
    words = turn.words
    if not words or turn.crosstalk:
        yield turn
        return
    breaks = {n for said in talk.interruptions(turn) if (n := _break(words, said.start))}
    if not breaks:
        yield turn
        return
    for first, last in pairwise([0, *sorted(breaks), len(words)]):
        yield _with(_opened(words[first:last]), turn)


def _break(words: Sequence[Word], taken: float) -> int | None:
    """The place of the word after the first pause since ``taken``.

    None where there is no pause before a remark would be over: then both simply speak at the same time.
    """
    for n in range(bisect_right(words, taken, key=attrgetter("start")), len(words)):
        if words[n - 1].end - taken > REMARK_SECONDS:
            return None
        if words[n].start - words[n - 1].end >= BREAK_SECONDS:
            return n
    return None


def _with(words: Sequence[Word], segment: Segment) -> Segment:
    """``segment`` with these words, and what follows from them."""
    return segment.model_copy(
        update={
            "start": words[0].start,
            "end": words[-1].end,
            "text": "".join(word.word for word in words),
            "confidence": round(fmean(word.confidence for word in words), 3),
            "words": tuple(words),
        }
    )


def _opened(held: Sequence[Word]) -> tuple[Word, ...]:
    """The first word of a segment carries no space before it."""
    first = held[0].model_copy(update={"word": held[0].word.lstrip()})
    return (first, *held[1:])

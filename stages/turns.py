"""Words into utterances, and the utterances of all tracks into one transcript's turns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from pipeline.transcript import Segment, Word

GAP_SECONDS: Final = 0.6
"""A pause in which an utterance ends; shorter ones are breaths within a sentence."""

LONG_SECONDS: Final = 7.0
"""Beyond this an utterance ends with its sentence; the longest that subtitle guides let a line stand."""

SENTENCE_ENDS: Final = tuple(".?!…。？！।")


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


def in_order(segments: Iterable[Segment], *, words: bool) -> tuple[Segment, ...]:
    """Segments of all tracks by ``(start, track)``, numbered from 0, with their words or without."""
    ordered = sorted(segments, key=lambda segment: (segment.start, segment.track, segment.id))
    less: dict[str, None] = {} if words else {"words": None}
    return tuple(segment.model_copy(update={"id": n, **less}) for n, segment in enumerate(ordered))


def _ends(held: Sequence[Word], following: Word) -> bool:
    if following.start - held[-1].end > GAP_SECONDS:
        return True
    return held[-1].end - held[0].start > LONG_SECONDS and held[-1].word.endswith(SENTENCE_ENDS)


def _opened(held: Sequence[Word]) -> tuple[Word, ...]:
    """The first word of a segment carries no space before it."""
    first = held[0].model_copy(update={"word": held[0].word.lstrip()})
    return (first, *held[1:])

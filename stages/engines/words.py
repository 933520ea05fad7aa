"""Words with their times, made of what an alignment of text and audio gives."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median

from stages.engines import DraftWord

# faster-whisper's defaults: marks that cling to the next word, and to the one before
PREPENDED = "\"'“¿([{-"
APPENDED = "\"'.。,，!！?？:：”)]}、"
SENTENCE_ENDS = (".", "。", "!", "！", "?", "？")
LONG_WORD = 0.7  # seconds; faster-whisper's bound for the median word


@dataclass(frozen=True, slots=True)
class Aligned:
    """A word with its punctuation, in seconds from the window's start, as found in the attention."""

    word: str
    start: float
    end: float
    probability: float


def timed(aligned: Iterable[Aligned], seconds: float) -> tuple[DraftWord, ...]:
    """The words in order, none overlapping, all inside a window of so many seconds.

    An alignment leaves no gap before a sentence: it stretches the first word over the pause. As in faster-whisper such
    a word is cut to twice the median.
    """
    given = list(aligned)
    lengths = [word.end - word.start for word in given if word.end > word.start]
    longest = 2 * min(LONG_WORD, median(lengths)) if lengths else 0.0
    words: list[DraftWord] = []
    reached, opens = 0.0, True
    for word in given:
        begin = max(word.start, word.end - longest) if opens else word.start
        start = min(seconds, max(reached, float(begin)))
        reached = min(seconds, max(start, float(word.end)))
        words.append(DraftWord(word.word, start, reached, min(1.0, max(0.0, float(word.probability)))))
        opens = word.word.endswith(SENTENCE_ENDS)
    return tuple(words)

"""How far what was heard is from what was said: words that are wrong, and words that are elsewhere."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import jiwer

from pipeline.transcript import Word
from stages.engines import DraftWord

START_SECONDS: Final = 0.3
"""How far a word's start may be from the truth: the model's own times wander by so much when silence is cut away."""


@dataclass(frozen=True, slots=True)
class Timed:
    """A word without case and punctuation. ``earliest``: where the one before it ends; the pause may be either's."""

    word: str
    earliest: float
    start: float


def plain(words: Sequence[Word | DraftWord], start: float = 0.0) -> list[Timed]:
    """The words of something that was said from ``start`` on."""
    pauses = [words[0].start, *(word.end for word in words)] if words else []
    bare = [
        Timed("".join(re.findall(r"\w", word.word.lower())), start + min(pause, word.start), start + word.start)
        for word, pause in zip(words, pauses, strict=False)
    ]
    return [word for word in bare if word.word]


def text(words: Sequence[Timed]) -> str:
    return " ".join(word.word for word in words)


def word_errors(said: str, heard: str) -> int:
    """How many words of ``heard`` are wrong, missing or too many, blind to case and punctuation."""
    truth, other = (" ".join(re.findall(r"\w+", text.lower())) for text in (said, heard))
    aligned = jiwer.process_words(truth, other)
    return int(aligned.substitutions + aligned.deletions + aligned.insertions)


def misplaced(truth: Sequence[Timed], heard: Sequence[Timed]) -> list[tuple[Timed, float]]:
    """The words that both have and that begin elsewhere in what was heard, and where."""
    [chunks] = jiwer.process_words(text(truth), text(heard)).alignments
    pairs = [
        (truth[chunk.ref_start_idx + n], heard[chunk.hyp_start_idx + n].start)
        for chunk in chunks
        if chunk.type == "equal"
        for n in range(chunk.ref_end_idx - chunk.ref_start_idx)
    ]
    return [(due, at) for due, at in pairs if not due.earliest - START_SECONDS <= at <= due.start + START_SECONDS]

"""Speech that an engine passed over: a window that came back with less than was said in it is heard in parts.

    ▇▇▇▇▇▇▇  ▇▇▇▇▇▇▇▇▇▇▇     pieces of a window: each for itself
    ▇▇▇▇▇▇▇▇▇▇▇|▇▇▇▇▇▇▇▇     one piece: parted at a quiet moment, near where its words end or begin

After a pause Whisper takes what follows for a new beginning now and then, and tells nothing of what was before it, or
stops where a sentence has ended. Each part heard for itself, nothing is passed over.
"""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Final

import numpy as np

from stages.engines import Draft
from stages.speech import PAD_SECONDS, WEAK_FRAMES
from stages.spool import SAMPLE_RATE, Region
from stages.voice import FRAME, Floats
from stages.windows import Piece, SpeechWindow, laid_out

FEW: Final = 0.25
"""Of the words that a piece should have; the first words of the next one may be told too early."""

LEAST: Final = 2.0
"""Words that a piece should have to be missed: a laugh or a breath has none."""

WORDLESS_SECONDS: Final = 4.0
"""Speech without a word in it. Of real clips the longest is 1.2 s (*base*, 2 × 33 windows); where a sentence was said
six times and told four times it was 6.3 s, and 22 s where a reading at twice the speed was given up."""

NEAR_SECONDS: Final = 1.5
"""How far from the words that were told a piece is parted: there is the pause that misled the model."""

QUIET: Final = WEAK_FRAMES * FRAME
"""Samples of a quiet moment; speech without a pause is cut at as short a one."""


def missed(window: SpeechWindow, draft: Draft) -> bool:
    """Whether a piece, or a long stretch of one, has hardly a word, or a limit came before the end of what was said."""
    return draft.cut or _has_poor_piece(window, draft) or _wordless(window, draft) is not None


def in_parts(window: SpeechWindow, draft: Draft, samples: Floats) -> tuple[SpeechWindow, ...]:
    """Its pieces, or the two halves of its only one, as windows of their own. ``samples``: its sound, shape (n,)."""
    if len(window.regions) > 1:
        return tuple(map(_alone, window.regions))
    [region] = window.regions
    at = region.start + _quietest(samples, *_around(window, draft))
    return _alone(Region(region.start, at)), _alone(Region(at, region.end))


def _alone(region: Region) -> SpeechWindow:
    return SpeechWindow((region,), laid_out((region,)))


def _has_poor_piece(window: SpeechWindow, draft: Draft) -> bool:
    """Whether some piece has few words for its length, at the pace of the window as a whole."""
    told = Counter(window.piece_at((word.start + word.end) / 2) for word in draft.words)
    spoken = {piece: max(0.0, piece.seconds - 2 * PAD_SECONDS) for piece in window.pieces}
    pace = len(draft.words) / (sum(spoken.values()) or 1.0)
    due = {piece: pace * seconds for piece, seconds in spoken.items()}
    return len(due) > 1 and any(words >= LEAST and told[piece] < FEW * words for piece, words in due.items())


def _wordless(window: SpeechWindow, draft: Draft) -> tuple[float, float] | None:
    """The longest stretch of a piece without a word, in seconds of the window, if something was said there."""
    if not draft.words:
        return None
    start, end = max((_longest_gap(piece, draft) for piece in window.pieces), key=lambda gap: gap[1] - gap[0])
    return (start, end) if end - start >= WORDLESS_SECONDS else None


def _longest_gap(piece: Piece, draft: Draft) -> tuple[float, float]:
    """Between words, or between a word and the piece's edge without its pad."""
    begins, ends = piece.window_start, piece.window_start + piece.seconds
    spans = [(word.start, word.end) for word in draft.words if word.end > begins and word.start < ends]
    edges = [(begins, begins + PAD_SECONDS), *spans, (ends - PAD_SECONDS, ends)]
    return max(((one[1], other[0]) for one, other in pairwise(edges)), key=lambda gap: gap[1] - gap[0])


def _around(window: SpeechWindow, draft: Draft) -> tuple[float, float]:
    """Where to part a piece, in seconds: beside the words that were told, or in the middle third."""
    if (gap := _wordless(window, draft)) is None:
        return window.seconds / 3, window.seconds * 2 / 3
    start, end = gap
    follows = any(word.end <= start for word in draft.words)
    return (start, start + NEAR_SECONDS) if follows else (end - NEAR_SECONDS, end)


def _quietest(samples: Floats, start: float, end: float) -> int:
    """The middle of the quietest moment between these seconds, in samples."""
    first, last = round(start * SAMPLE_RATE), round(end * SAMPLE_RATE)
    energy = np.cumsum(np.square(samples[first:last], dtype=np.float64))
    moments = energy[QUIET:] - energy[:-QUIET]
    return first + int(np.argmin(moments)) + QUIET // 2

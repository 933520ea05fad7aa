"""Speech that an engine passed over: pieces of a window that came back with hardly a word.

After a pause Whisper takes what follows for a new beginning now and then, and tells nothing of what was before it, or
stops where a sentence has ended. Each piece heard for itself, nothing is passed over.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from stages.engines import Draft
from stages.speech import PAD_SECONDS
from stages.windows import SpeechWindow, laid_out

FEW: Final = 0.25
"""Of the words that a piece should have; the first words of the next one may be told too early."""

LEAST: Final = 2.0
"""Words that a piece should have to be missed: a laugh or a breath has none."""


def missed(window: SpeechWindow, draft: Draft) -> bool:
    """Whether some piece has few words for its length, at the pace of the window as a whole."""
    told = Counter(window.piece_at((word.start + word.end) / 2) for word in draft.words)
    spoken = {piece: max(0.0, piece.seconds - 2 * PAD_SECONDS) for piece in window.pieces}
    pace = len(draft.words) / (sum(spoken.values()) or 1.0)
    due = {piece: pace * seconds for piece, seconds in spoken.items()}
    return len(due) > 1 and any(words >= LEAST and told[piece] < FEW * words for piece, words in due.items())


def apart(window: SpeechWindow) -> tuple[SpeechWindow, ...]:
    """Each piece as a window of its own."""
    return tuple(SpeechWindow((region,), laid_out((region,))) for region in window.regions)

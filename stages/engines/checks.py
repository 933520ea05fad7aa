"""The numbers by which what was heard in a window is judged, with Whisper's own bounds (openai/whisper, transcribe.py).

compression ratio    a text that is one phrase over and over packs far better than speech does
avg_logprob          how probable the model finds its tokens, on average
no_speech_prob       how probable it finds that nobody speaks
"""

from __future__ import annotations

import zlib
from typing import Final

LOOP: Final = 2.4  # compression_ratio_threshold
IMPROBABLE: Final = -1.0  # logprob_threshold
NO_SPEECH: Final = 0.6  # no_speech_threshold


def compression_ratio(text: str) -> float:
    """Bytes of the text over bytes of it packed by zlib, as in openai/whisper, utils.py."""
    packed = text.encode()
    return len(packed) / len(zlib.compress(packed))


def is_silence(no_speech_prob: float, avg_logprob: float) -> bool:
    """Whether a text was made up for silence: the model thinks that nobody speaks, and doubts what it wrote."""
    return no_speech_prob > NO_SPEECH and avg_logprob <= IMPROBABLE

"""A conversation of three voices, each a stream of its own: what is said in it, by whom and when, and what makes it.

    host    And Mr. John …                            Had he married …    He might even …
    guest                     It was the first … the dreams built around it.
    caller                                In 1813.

``python -m tests.conversation`` writes ``tests/media/conversation.mkv`` anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from tests.stages.making import Part, Stream, record, sound_of

MEDIA: Final = Path(__file__).parent / "media"
RECORDING: Final = MEDIA / "conversation.mkv"


@dataclass(frozen=True)
class Line:
    """A clip that begins at ``start`` seconds, with up to half a second of silence around what is said in it."""

    start: float
    clip: str
    text: str


@dataclass(frozen=True)
class Voice:
    """A stream that begins at ``joins`` seconds."""

    name: str
    codec: str
    lines: tuple[Line, ...]
    joins: float = 0.0


HOST: Final = Voice(
    "host",
    "libopus",
    (
        Line(
            0.5,
            "austen_0870.flac",
            "And Mr. John Dashwood had then leisure to consider how much there might be prudently in his power to do "
            "for them.",
        ),
        Line(
            14.3,
            "austen_0920.flac",
            "Had he married a more amiable woman, he might have been made still more respectable than he was.",
        ),
        Line(20.5, "austen_0930.flac", "He might even have been made amiable himself."),
    ),
)
GUEST: Final = Voice(
    "guest",
    "aac",
    (
        Line(
            8.1,
            "librispeech_1995-1837-0001.flac",
            "It was the first great sorrow of his life. It was not so much the loss of the cotton itself, "
            "but the fantasy, the hopes, the dreams built around it.",
        ),
    ),
)
CALLER: Final = Voice("caller", "libmp3lame", (Line(12.1, "ljspeech_LJ002-0020.flac", "In 1813."),), joins=10.5)
VOICES: Final = (HOST, GUEST, CALLER)


def stream(voice: Voice) -> Stream:
    """The lines of ``voice`` in their places, with silence between them, at the rate of its clips."""
    clips = [sound_of(MEDIA / line.clip) for line in voice.lines]
    rate = clips[0][1]
    places = [round((line.start - voice.joins) * rate) for line in voice.lines]
    whole = np.zeros(
        (1, max(place + clip.shape[1] for place, (clip, _) in zip(places, clips, strict=True))), np.float32
    )
    for place, (clip, _) in zip(places, clips, strict=True):
        whole[:, place : place + clip.shape[1]] += clip
    return Stream([Part(voice.joins, whole)], rate=rate, codec=voice.codec, title=voice.name)


if __name__ == "__main__":
    record(RECORDING, *map(stream, VOICES))

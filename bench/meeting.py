"""A meeting made of real recordings: one person speaks at a time, or nearly so, and each has a microphone.

track 0  ▇▇▇▇▇▇▇▇        ▇▇▇▇▇▇▇
track 1        ▇▇▇▇▇▇▇▇▇       ▇▇▇▇▇▇▇     the same turns for any number of tracks, dealt out in order
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import cycle, islice
from pathlib import Path
from typing import Final

import av
import numpy as np

from bench.clips import RATE, Sound, decoded, recordings

OVERLAP: Final = 0.3  # of the shorter of two turns; with the silence at their ends, a tenth of all speech
PAUSE: Final = RATE // 2  # between two turns on one track
LOUDNESS: Final = 10 ** (-24 / 20)  # RMS of a turn
HUSH: Final = 10 ** (-66 / 20)  # RMS of the noise of each microphone

# Short ones first, so that few seconds hold many turns.
TURNS: Final = (
    "jfk.flac",
    "austen_0870.flac",
    "librispeech_1995-1837-0001.flac",
    "leopard_en.flac",
    "austen_0880.flac",
    "sb_LJ050-0131.flac",
    "austen_0890.flac",
    "austen_0920.flac",
    "sonnet_p001.mp3",
    "austen_0930.flac",
    "sonnet_p002.mp3",
)


@dataclass(frozen=True, slots=True, eq=False)
class Meeting:
    """``sounds``: a track each, float32, shape (n,), mono, 16 000 Hz. ``said``: what is said on each, in order."""

    sounds: Sequence[Sound]
    said: Sequence[str]

    @property
    def tracks(self) -> int:
        return len(self.sounds)

    @property
    def seconds(self) -> float:
        return len(self.sounds[0]) / RATE

    def save(self, path: Path) -> Path:
        """As one file with a stream for each track; FLAC, so that nobody hears less for the form it comes in."""
        return _write(path, self.sounds)

    def save_apart(self, folder: Path) -> list[Path]:
        """As one file for each track, for those who only hear the first stream of a file."""
        return [_write(folder / f"track-{n}.flac", [sound]) for n, sound in enumerate(self.sounds)]


@dataclass(frozen=True, slots=True, eq=False)
class Turn:
    """``start`` in samples from the beginning of the meeting."""

    track: int
    start: int
    sound: Sound
    text: str

    @property
    def end(self) -> int:
        return self.start + len(self.sound)


def meeting(tracks: int, turns: int) -> Meeting:
    taken = list(_turns(tracks, turns))
    length = max(turn.end for turn in taken) + PAUSE
    noise = np.random.default_rng(tracks)
    sounds = [noise.normal(0, HUSH, length).astype(np.float32) for _ in range(tracks)]
    for turn in taken:
        sounds[turn.track][turn.start : turn.end] += turn.sound
    said = [" ".join(turn.text for turn in taken if turn.track == track) for track in range(tracks)]
    return Meeting(sounds, said)


def _turns(tracks: int, turns: int) -> Iterator[Turn]:
    references, end, before = {one.file: one.said for one in recordings()}, 0, 0
    for n, name in enumerate(islice(cycle(TURNS), turns)):
        sound = _decoded(name)
        start = end + PAUSE if tracks == 1 else end - round(OVERLAP * min(before, len(sound)))
        yield Turn(n % tracks, start, sound, references[name])
        end, before = start + len(sound), len(sound)


def _decoded(name: str) -> Sound:
    """A recording as loud as all others are."""
    sound = decoded(name)
    return (sound * np.float32(LOUDNESS / np.sqrt(np.mean(np.square(sound))))).astype(np.float32)


def _write(path: Path, sounds: Sequence[Sound]) -> Path:
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("flac", rate=RATE, layout="mono") for _ in sounds]
        for n, stream in enumerate(streams):
            stream.metadata["title"] = f"Voice {n + 1}"
        for start in range(0, len(sounds[0]), RATE):
            for stream, sound in zip(streams, sounds, strict=True):
                container.mux(stream.encode(_frame(sound[start : start + RATE], start)))
        for stream in streams:
            container.mux(stream.encode(None))
    return path


def _frame(sound: Sound, start: int) -> av.AudioFrame:
    samples = (np.clip(sound, -1, 1) * 32_767).astype(np.int16)
    frame = av.AudioFrame.from_ndarray(samples[np.newaxis], format="s16", layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = RATE, start, Fraction(1, RATE)
    return frame

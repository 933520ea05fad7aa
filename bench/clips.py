"""The recordings of the tests as benchmarks use them: whole, with what is said in them, and cut into short clips."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import av
import numpy as np
from av.audio.resampler import AudioResampler
from numpy.typing import NDArray

from bench import RECORDINGS

Sound = NDArray[np.float32]

RATE: Final = 16_000
SHORTEST, LONGEST = 3.0, 11.01  # seconds of a short clip
READINGS: Final = ("sonnet_p001.mp3", "sonnet_p002.mp3")  # long enough to be cut into several
PIECE: Final = 9 * RATE  # about so much each
SEARCHED: Final = RATE  # to either side of where a cut is due, for the quietest tenth of a second
CLIPS: Final = 24

# One recording in four containers is one clip, and what was joined from others is none.
COPIES: Final = ("sonnet_clip.mp4", "sonnet_clip.ogg", "sonnet_clip.webm", "conversation.mkv")


@dataclass(frozen=True, slots=True)
class Recording:
    """``said``: the reference text."""

    file: str
    language: str
    seconds: float
    said: str


@dataclass(frozen=True, slots=True, eq=False)
class Clip:
    """``sound``: float32, shape (n,), mono, 16 000 Hz."""

    name: str
    language: str
    sound: Sound

    @property
    def seconds(self) -> float:
        return len(self.sound) / RATE


def recordings() -> Sequence[Recording]:
    """Each voice once, in the manifest's order."""
    with (RECORDINGS / "manifest.tsv").open() as file:
        rows = csv.DictReader((line for line in file if not line.startswith("#")), delimiter="\t")
        every = [Recording(row["file"], row["lang"], float(row["duration_s"]), row["reference"]) for row in rows]
    return [one for one in every if one.file not in COPIES]


def short_clips() -> Sequence[Clip]:
    """Two dozen of 3 to 11 s: the recordings that are as short, and the two readings cut where they are quiet."""
    whole = [
        Clip(one.file, one.language, decoded(one.file)) for one in recordings() if SHORTEST <= one.seconds <= LONGEST
    ]
    pieces = [piece for name in READINGS for piece in _pieces(name)]
    return [*whole, *pieces][:CLIPS]


def decoded(name: str) -> Sound:
    """A recording as the engines hear it. Those with two channels have one sound twice."""
    resampler = AudioResampler("s16p", "mono", RATE)
    with av.open(str(RECORDINGS / name)) as container:
        frames: list[av.AudioFrame | None] = [*container.decode(audio=0), None]
    parts = [out.to_ndarray()[0] for frame in frames for out in resampler.resample(frame)]
    return np.concatenate(parts).astype(np.float32) / np.float32(32_768)


def _pieces(name: str) -> Iterator[Clip]:
    sound = decoded(name)
    due = range(PIECE, len(sound) - PIECE // 2, PIECE)
    edges = [0, *(_quietest(sound, place) for place in due), len(sound)]
    for n, (start, end) in enumerate(pairwise(edges)):
        yield Clip(f"{name}, part {n + 1}", "en", sound[start:end])


def _quietest(sound: Sound, place: int) -> int:
    """The middle of the quietest tenth of a second near ``place``."""
    start, width = place - SEARCHED, RATE // 10
    tenths = sound[start : place + SEARCHED].reshape(-1, width)
    return start + int(np.argmin(np.square(tenths).sum(axis=1))) * width + width // 2

"""Speech windows: the speech of one track in stretches of at most 30 s, cut where nobody speaks."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final

import numpy as np

from stages.bleed import sharing
from stages.messages import Bleed
from stages.speech import LONGEST_SAMPLES
from stages.spool import SAMPLE_RATE, Region, Spool
from stages.voice import Floats, floats

KEPT_GAP: Final = SAMPLE_RATE  # shorter gaps stay as they are: the pause tells the model where a sentence ends


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of the track that lies unbroken in a window. All in seconds."""

    track_start: float
    window_start: float
    seconds: float


@dataclass(frozen=True, slots=True)
class SpeechWindow:
    """Speech of one track, in order, at most 30 s; its sound stays in the spool until it is read."""

    regions: tuple[Region, ...]
    pieces: tuple[Piece, ...]

    @property
    def seconds(self) -> float:
        return sum(piece.seconds for piece in self.pieces)

    @property
    def begins(self) -> float:
        """Where on the track its first sound lies, in seconds."""
        return self.pieces[0].track_start

    @property
    def passed(self) -> float:
        """Seconds of the track up to which all speech lies in this window or an earlier one."""
        return self.pieces[-1].track_start + self.pieces[-1].seconds

    async def samples(self, spool: Spool, without: Sequence[Bleed] = ()) -> Floats:
        """The sound, with silence in place of any bleed in it: float32, shape (n,), mono, 16 000 Hz, −1 … 1."""
        sounds = []
        for region in self.regions:
            sound = await spool.read(region.start, region.end - region.start)
            for other in sharing(without, region):
                sound[max(0, other.region.start - region.start) : other.region.end - region.start] = 0
            sounds.append(sound)
        return floats(np.concatenate(sounds))

    def span(self, start: float, end: float) -> tuple[float, float]:
        """A word of this window on the track: kept whole, in the piece that holds its middle."""
        piece = self.piece_at((start + end) / 2)
        return self._within(piece, start), self._within(piece, end)

    def piece_at(self, seconds: float) -> Piece:
        """Which one a time of this window lies in. A seam between two belongs to the later one."""
        return self.pieces[max(0, bisect_right(self.pieces, seconds, key=lambda piece: piece.window_start) - 1)]

    @staticmethod
    def _within(piece: Piece, seconds: float) -> float:
        return piece.track_start + min(max(0.0, seconds - piece.window_start), piece.seconds)


async def windows(spool: Spool, speech: AsyncGenerator[Region, None]) -> AsyncGenerator[SpeechWindow, None]:
    """The regions of ``speech``, in order, each in one window. ``speech`` is closed at the end."""
    held: tuple[Region, ...] = ()
    async with aclosing(speech):
        async for region in speech:
            longer = joined(held, region)
            if longer is None:
                yield SpeechWindow(held, laid_out(held))
            held = longer or (region,)
    if held and spool.error is None:
        yield SpeechWindow(held, laid_out(held))


def joined(pieces: tuple[Region, ...], region: Region) -> tuple[Region, ...] | None:
    """One window of these pieces and the next region, or ``None`` if that is longer than a window may be."""
    if pieces and region.start - pieces[-1].end <= KEPT_GAP:
        pieces, region = pieces[:-1], Region(pieces[-1].start, region.end)
    longer = (*pieces, region)
    return longer if sum(piece.end - piece.start for piece in longer) <= LONGEST_SAMPLES else None


def laid_out(regions: tuple[Region, ...]) -> tuple[Piece, ...]:
    """The regions one after the other, as the pieces of one window."""
    pieces, filled = [], 0
    for region in regions:
        length = region.end - region.start
        pieces.append(Piece(region.start / SAMPLE_RATE, filled / SAMPLE_RATE, length / SAMPLE_RATE))
        filled += length
    return tuple(pieces)

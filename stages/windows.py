"""A track's audio as speech windows: stretches of at most 30 s in which somebody speaks, cut where nobody does.

    spool ─32-s blocks─▶ gate ─▶ Silero VAD ─frame scores─▶ Hysteresis ─regions─▶ packed into windows

Nothing depends on how the spool grew: blocks, frames and their scores are the same whenever they are read.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from anyio import to_thread

from pipeline.settings import AudioSettings
from stages.spool import SAMPLE_RATE, Spool
from stages.voice import BLOCK_FRAMES, FRAME, HALO_FRAMES, Floats, Silero, floats, threads

PAD_FRAMES: Final = 10  # 0.32 s: soft onsets and endings that the model scores low
MIN_SILENCE_FRAMES: Final = 2 * PAD_FRAMES  # so that the pads of two regions may touch but never overlap
MIN_SPEECH_FRAMES: Final = 6  # 0.19 s: a short "yes" stays, a click goes
MARGIN: Final = 0.15  # speech ends this far below the threshold at which it begins (Silero's own default)

WINDOW_SAMPLES: Final = 30 * SAMPLE_RATE  # what Whisper was trained on
LONGEST_FRAMES: Final = WINDOW_SAMPLES // FRAME - PAD_FRAMES
SEARCH_FRAMES: Final = 250  # speech without a pause is cut at the weakest point of its last 8 s
WEAK_FRAMES: Final = 5  # a point is 0.16 s: about the gap between two words
KEPT_GAP: Final = SAMPLE_RATE  # shorter gaps stay as they are: the pause tells the model where a sentence ends


@dataclass(frozen=True, slots=True)
class Region:
    """A stretch of the track, in samples."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of the track that lies unbroken in a window. All in seconds."""

    track_start: float
    window_start: float
    seconds: float


@dataclass(frozen=True, slots=True, eq=False)
class SpeechWindow:
    """Speech of one track, in order. ``samples``: float32, shape (n,), mono, 16 000 Hz, −1 … 1, at most 30 s."""

    samples: Floats
    pieces: tuple[Piece, ...]

    @property
    def seconds(self) -> float:
        return sum(piece.seconds for piece in self.pieces)

    @property
    def passed(self) -> float:
        """Seconds of the track up to which all speech lies in this window or an earlier one."""
        return self.pieces[-1].track_start + self.pieces[-1].seconds

    def to_track(self, seconds: float) -> float:
        """Where a time of this window lies on the track. A seam between pieces belongs to the later one."""
        return self._within(self._piece_at(seconds), seconds)

    def span(self, start: float, end: float) -> tuple[float, float]:
        """A word of this window on the track: kept whole, in the piece that holds its middle."""
        piece = self._piece_at((start + end) / 2)
        return self._within(piece, start), self._within(piece, end)

    def _piece_at(self, seconds: float) -> Piece:
        return self.pieces[max(0, bisect_right(self.pieces, seconds, key=lambda piece: piece.window_start) - 1)]

    @staticmethod
    def _within(piece: Piece, seconds: float) -> float:
        return piece.track_start + min(max(0.0, seconds - piece.window_start), piece.seconds)


async def windows(spool: Spool, settings: AudioSettings) -> AsyncGenerator[SpeechWindow, None]:
    """All speech of the track, as it arrives. Ends early when the writer gave up: ``spool.error`` says so."""
    model, hysteresis = Silero(), Hysteresis(settings.vad_threshold)
    pieces: tuple[Region, ...] = ()
    start, more = 0, True
    while more:
        samples = await spool.read(start, (BLOCK_FRAMES + HALO_FRAMES) * FRAME)
        if spool.error is not None:
            return
        scores, levels = await to_thread.run_sync(model.hear, samples, limiter=threads())
        more = len(samples) > BLOCK_FRAMES * FRAME
        regions = [*hysteresis.hear(scores, levels), *(() if more else hysteresis.end(start + len(samples)))]
        for region in regions:
            longer = joined(pieces, region)
            if longer is None:
                yield await _window(spool, pieces)
            pieces = longer or (region,)
        start += BLOCK_FRAMES * FRAME
    if pieces:
        yield await _window(spool, pieces)


def joined(pieces: tuple[Region, ...], region: Region) -> tuple[Region, ...] | None:
    """One window of these pieces and the next region, or ``None`` if that is longer than a window may be."""
    if pieces and region.start - pieces[-1].end <= KEPT_GAP:
        pieces, region = pieces[:-1], Region(pieces[-1].start, region.end)
    longer = (*pieces, region)
    return longer if sum(piece.end - piece.start for piece in longer) <= WINDOW_SAMPLES else None


async def _window(spool: Spool, regions: tuple[Region, ...]) -> SpeechWindow:
    sounds = [await spool.read(region.start, region.end - region.start) for region in regions]
    return SpeechWindow(floats(np.concatenate(sounds)), laid_out(regions))


def laid_out(regions: tuple[Region, ...]) -> tuple[Piece, ...]:
    """The regions one after the other, as the pieces of one window."""
    pieces, filled = [], 0
    for region in regions:
        length = region.end - region.start
        pieces.append(Piece(region.start / SAMPLE_RATE, filled / SAMPLE_RATE, length / SAMPLE_RATE))
        filled += length
    return tuple(pieces)


class Hysteresis:
    """Speech regions from frame scores: begins at the threshold, ends after a silence well below it.

    Regions come in order, never overlap, and with their pads are never longer than a window.
    """

    def __init__(self, threshold: float) -> None:
        self._on, self._off = threshold, max(threshold - MARGIN, 0.01)
        self._frame = 0  # the next one
        self._start: int | None = None  # of the open region, pad included
        self._spoke = 0  # where speech in it was first heard
        self._silent: int | None = None  # since when it has been silent
        self._closed = 0  # end of the last region
        self._strength: deque[float] = deque(maxlen=SEARCH_FRAMES)

    def hear(self, scores: Floats, levels: Floats) -> Iterator[Region]:
        """Regions that end with these frames. ``scores``: probability of speech; ``levels``: RMS; shape (n,)."""
        for score, strength in zip(scores.tolist(), (scores * levels).tolist(), strict=True):
            self._strength.append(strength)
            yield from self._step(score)
            self._frame += 1

    def end(self, samples: int) -> Iterator[Region]:
        """What is still open at the end of the track, ``samples`` long."""
        if self._start is not None:
            silent = self._frame if self._silent is None else self._silent
            for region in self._close(silent, min(silent + PAD_FRAMES, self._frame)):
                yield Region(region.start, min(region.end, samples))

    def _step(self, score: float) -> Iterator[Region]:
        if self._start is None:
            if score >= self._on:
                self._start, self._spoke = max(self._closed, self._frame - PAD_FRAMES), self._frame
            return
        if score >= self._off:
            self._silent = None
        elif self._silent is None:
            self._silent = self._frame
        if self._silent is not None and self._frame - self._silent >= MIN_SILENCE_FRAMES:
            yield from self._close(self._silent, self._silent + PAD_FRAMES)
        elif self._frame - self._start >= LONGEST_FRAMES:
            yield from self._cut()

    def _cut(self) -> Iterator[Region]:
        """End a region that has become too long: in the silence that it is in, or at its weakest point."""
        if self._silent is not None:
            yield from self._close(self._silent, min(self._silent + PAD_FRAMES, self._frame))
            return
        weakest = np.argmin(np.convolve(self._strength, np.ones(WEAK_FRAMES), "valid"))
        at = self._frame + 1 - SEARCH_FRAMES + int(weakest) + WEAK_FRAMES // 2
        yield from self._close(at, at)
        self._start = at

    def _close(self, silent: int, end: int) -> Iterator[Region]:
        assert self._start is not None
        if silent - self._spoke >= MIN_SPEECH_FRAMES:
            yield Region(self._start * FRAME, end * FRAME)
            self._closed = end
        self._start = self._silent = None

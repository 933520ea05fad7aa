"""How the voice of one track is heard on another: its delay and what it loses in each band, learnt as time goes on."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stages.likeness import WINDOW, Likeness, Pair
from stages.loudness import BANDS, FRAME, FRAMES, Loudness
from stages.spool import SAMPLE_RATE
from stages.voice import Floats

ENOUGH: Final = 5  # windows with a sound in common, to say anything about two tracks
CONTEXT: Final = 300 * SAMPLE_RATE  # before and after: microphones are moved, gains are turned
EXTREMES: Final = (10, 90)  # percentiles between which level differences lie
APART: Final = 5.0  # dB between them, or all is one voice; two bleeds of -3 dB are 6 apart
ALONE: Final = 3.0  # dB; where all is one voice, the track that is so much quieter has the copy
USUAL: Final = 12.0  # dB between the extremes where nobody has shown them: two bleeds of -6 dB
NEAR: Final = 0.35  # of the way between the extremes: a window so near to its end is one voice, and no third one

AUDIBLE: Final = 8.0  # dB above its noise
KEPT: Final = 0.7  # of what was known, a stretch later
SURE: Final = 1500.0  # frames; more make nothing better known

Indexes = NDArray[np.intp]


class Echo:
    """The voice of the track ``source`` as it is heard on the track ``target``; both are places in a list of tracks.

    ``delay`` in samples. ``apart``: dB between what the target has of that voice and of its own, each beside what the
    source has of it.
    """

    def __init__(self, target: int, source: int, likeness: Likeness) -> None:
        self.target, self.source, self.likeness = target, source, likeness
        self.delay = self.apart = 0.0
        self._gains = np.zeros(BANDS, np.float32)
        self._frames = np.zeros(BANDS, np.float32)  # from which the gains are known

    @property
    def known(self) -> bool:
        return bool(np.any(self._frames))

    def level(self, loudness: Sequence[Loudness]) -> Floats:
        """How loud this voice would be on the target in each frame and band, in dB."""
        return loudness[self.source].later(self.delay) + self._gains

    def spoken(self, start: int) -> Indexes:
        """Which windows of the stretch from sample ``start`` on have the source's voice, by these two tracks alone."""
        starts = self.likeness.starts
        split = _split(self.likeness, np.abs(starts - start) < CONTEXT)
        if split is None:
            return np.zeros(0, np.intp)
        low, high = split
        self.apart = high - low
        within = (starts >= start) & (starts < start + FRAMES * FRAME)
        return np.flatnonzero(within & (self.likeness.levels < low + NEAR * (high - low)))

    def learn(self, start: int, windows: Indexes, loudness: Sequence[Loudness]) -> None:
        """Learn from these windows of the stretch, in which the source speaks."""
        if not len(windows):
            return
        self.delay = float(np.median(self.likeness.lags[windows]))
        first = (self.likeness.starts[windows].astype(int) - start) // FRAME
        self._measure((first[:, None] + np.arange(WINDOW // FRAME)).ravel(), loudness)

    def _measure(self, frames: NDArray[np.int_], loudness: Sequence[Loudness]) -> None:
        target = loudness[self.target]
        audible = target.above_noise[frames] > AUDIBLE
        differences = target.levels[frames] - loudness[self.source].later(self.delay)[frames]
        if not np.any(audible):
            return
        overall = np.median(differences[audible])
        for band in range(BANDS):
            heard = differences[audible[:, band], band]
            self._update(band, len(heard), float(np.median(heard)) if len(heard) else float(overall))

    def _update(self, band: int, frames: int, gain: float) -> None:
        known = KEPT * self._frames[band]
        weight = frames if known else max(1, frames)
        self._gains[band] += (gain - self._gains[band]) * weight / max(1.0, known + weight)
        self._frames[band] = min(SURE, known + weight)


def echoes_of(likenesses: Mapping[Pair, Likeness]) -> list[Echo]:
    """Each voice on each other track, where two tracks have enough in common to know."""
    found = []
    for (first, second), likeness in likenesses.items():
        if len(likeness) >= ENOUGH:
            found += [Echo(first, second, likeness), Echo(second, first, likeness.turned())]
    return found


def learn(echoes: Sequence[Echo], start: int, loudness: Sequence[Loudness]) -> None:
    """Let each echo learn from the stretch from sample ``start`` on.

    Where a third voice is heard on two tracks, neither is the source of the other: a window in which the source is
    itself an echo does not count.
    """
    spoken = [echo.spoken(start) for echo in echoes]
    copies: dict[int, set[float]] = defaultdict(set)
    for echo, windows in zip(echoes, spoken, strict=True):
        copies[echo.target].update(echo.likeness.starts[windows].tolist())
    for echo, windows in zip(echoes, spoken, strict=True):
        copied = np.isin(echo.likeness.starts[windows], list(copies[echo.source]))
        echo.learn(start, windows[~copied], loudness)


def _split(likeness: Likeness, near: NDArray[np.bool_]) -> tuple[float, float] | None:
    """The level differences where the source speaks and where the target does; from those near, or else from all."""
    for levels in (likeness.levels[near], likeness.levels):
        if len(levels) >= ENOUGH:
            low, high = np.percentile(levels, EXTREMES)
            if high - low >= APART:
                return float(low), float(high)
    return _one_voice(likeness)


def _one_voice(likeness: Likeness) -> tuple[float, float] | None:
    """The same where the speaker of one track says nothing: a copy is quieter, and not earlier."""
    level = float(np.median(likeness.levels))
    return (level, level + USUAL) if level <= -ALONE and np.median(likeness.lags) >= 0 else None

"""How the voice of one track is heard on another: its delay and what it loses in each band, learnt as time goes on."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stages.likeness import WINDOW, Heard, Likeness, Pair, speaking
from stages.loudness import BANDS, FRAME, FRAMES, Loudness
from stages.spool import SAMPLE_RATE
from stages.voice import Floats

ENOUGH: Final = 5  # windows with a sound in common, to say anything about two tracks
CONTEXT: Final = 300 * SAMPLE_RATE  # before and after: microphones are moved, gains are turned
EXTREMES: Final = (10, 90)  # percentiles between which level differences lie
APART: Final = 5.0  # dB between them, or all is one voice; two bleeds of -3 dB are 6 apart
ALONE: Final = 3.0  # dB; where all is one voice, the track that is so much quieter has the copy
USUAL: Final = 12.0  # dB between the extremes where nobody has shown them: two bleeds of -6 dB
MIXED: Final = 0.5  # share of a mix's speech, and more, that is on other tracks; the rest is of people without one
DISJOINT: Final = 0.5  # less of it is on two of these; 0.4 where all talk at once, 0.8 in the quietest room
LOUDEST: Final = 12.0  # dB that a mix is louder than what it is made of; what is louder still is heard at its source
NEAR: Final = 0.35  # of the way between the extremes: a window so near to its end is one voice, and no third one

AUDIBLE: Final = 8.0  # dB above its noise
KEPT: Final = 0.7  # of what was known, a stretch later
SURE: Final = 1500.0  # frames; more make nothing better known

Indexes = NDArray[np.intp]


class Echo:
    """The voice of the track ``source`` as it is heard on the track ``target``; both are places in a list of tracks.

    ``delay`` in samples. ``apart``: dB between what the target has of that voice and of its own, each beside what the
    source has of it. ``copy``: whether the target has a copy where all that they share is one voice.
    """

    def __init__(self, target: int, source: int, likeness: Likeness, copy: bool) -> None:
        self.target, self.source, self.likeness = target, source, likeness
        self.delay = self.apart = 0.0
        self._usual = _split(likeness.levels) or (_one_voice(likeness) if copy else None)
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
        levels = self.likeness.levels
        first, last = self._between(start - CONTEXT, start + CONTEXT)
        split = _split(levels[first:last]) or self._usual
        if split is None:
            return np.zeros(0, np.intp)
        low, high = split
        self.apart = high - low
        first, last = self._between(start, start + FRAMES * FRAME)
        return first + np.flatnonzero(levels[first:last] < low + NEAR * (high - low))

    def _between(self, start: int, end: int) -> tuple[int, int]:
        """Of the windows that begin there: the first, and one past the last."""
        first, last = np.searchsorted(self.likeness.starts, (start, end))
        return int(first), int(last)

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


def echoes_of(tracks: Sequence[Heard], likenesses: Mapping[Pair, Likeness]) -> list[Echo]:
    """Each voice on each other track, where two tracks have enough in common to know."""
    enough = {pair: likeness for pair, likeness in likenesses.items() if len(likeness) >= ENOUGH}
    sides = [(*pair, likeness) for pair, likeness in enough.items()]
    sides += [(second, first, likeness.turned()) for (first, second), likeness in enough.items()]
    mixes = {n for n, heard in enumerate(tracks) if _is_mix(heard, [side[2] for side in sides if side[0] == n])}
    return [
        Echo(target, source, likeness, source not in mixes and (target in mixes or _is_copy(likeness)))
        for target, source, likeness in sides
    ]


def _is_mix(heard: Heard, likenesses: Sequence[Likeness]) -> bool:
    """Whether this track, by its likeness to others, is made of them, as recorders do beside one of each person.

    Its speech is on other tracks, now on one and now on another. A voice in a room is on all of them at once.
    """
    shared = [likeness.starts for likeness in likenesses if np.median(likeness.levels) <= LOUDEST]
    if not any(_disjoint(one, other) for one, other in combinations(shared, 2)):
        return False
    seconds = round(heard.spool.seconds) + 1
    spoken = WINDOW * np.flatnonzero(speaking(heard.speech, 0, seconds, WINDOW))
    return bool(np.mean(np.isin(spoken, np.concatenate(shared))) >= MIXED)


def _disjoint(one: NDArray[np.float64], other: NDArray[np.float64]) -> bool:
    return len(np.intersect1d(one, other)) < DISJOINT * min(len(one), len(other))


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


def _split(levels: NDArray[np.float64]) -> tuple[float, float] | None:
    """The level differences where the source speaks and where the target does, if both are among these."""
    if len(levels) < ENOUGH:
        return None
    low, high = np.percentile(levels, EXTREMES)
    return (float(low), float(high)) if high - low >= APART else None


def _one_voice(likeness: Likeness) -> tuple[float, float]:
    """The same where only the source speaks."""
    level = float(np.median(likeness.levels))
    return level, level + USUAL


def _is_copy(likeness: Likeness) -> bool:
    """Whether the first track has the copy: it is quieter, and not earlier."""
    return bool(np.median(likeness.levels) <= -ALONE and np.median(likeness.lags) >= 0)

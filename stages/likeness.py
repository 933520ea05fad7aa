"""What two tracks have in common: when both carry the same sound, and how much later and louder one of them has it.

Sounds are compared by their waveforms, with the generalised cross-correlation of Knapp and Carter (1976) under the
phase transform: every frequency counts the same, so that an echo is one sharp peak, however a room has coloured it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Final

import numpy as np
from anyio import from_thread
from numpy.typing import NDArray

from stages.spool import SAMPLE_RATE, Region, Spool
from stages.voice import Floats, floats

WINDOW: Final = SAMPLE_RATE  # long enough for a clear peak, short enough for one speaker, and for clocks to agree
WINDOWS: Final = 30  # in one stretch: what is in memory at a time
SPOKEN: Final = 0.3  # share of a window that must be speech on both tracks
PARTS: Final = 10  # in which that share is counted

HIGHEST: Final = SAMPLE_RATE // 4  # Hz: speech is below, and the inverse transform half as long
LOWEST: Final = 100  # Hz: what hums below is no voice
STEP: Final = SAMPLE_RATE // (2 * HIGHEST)  # samples from lag to lag

REACH: Final = SAMPLE_RATE // 4  # lags looked at, around where the last sounds in common were
FOLLOW: Final = round(0.15 * SAMPLE_RATE)  # a lag beyond this moves them along: two recorders' clocks drift apart
CLEAR: Final = 7.0  # a peak in RMS of the correlation; the highest of chance is at 4 for as many lags

Pair = tuple[int, int]


@dataclass(frozen=True, slots=True, eq=False)
class Heard:
    """A whole track, ended, and where somebody speaks on it."""

    track: str
    spool: Spool
    speech: tuple[Region, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Likeness:
    """Windows in which two tracks, the first and the second, carry the same sound; float64, shape (n,), in order.

    ``starts``: of the window, in samples. ``lags``: samples that the sound is later on the first track. ``levels``: dB
    that the first is louder. They were found among ``spoken`` windows in which both have speech.
    """

    starts: NDArray[np.float64]
    lags: NDArray[np.float64]
    levels: NDArray[np.float64]
    spoken: int

    def __len__(self) -> int:
        return len(self.starts)

    def turned(self) -> Likeness:
        """The same, seen from the second track."""
        return Likeness(self.starts, -self.lags, -self.levels, self.spoken)


def samples_of(tracks: Sequence[Heard]) -> int:
    """Length of the longest."""
    return max((round(heard.spool.seconds * SAMPLE_RATE) for heard in tracks), default=0)


def compare(tracks: Sequence[Heard]) -> dict[Pair, Likeness]:
    """What each pair of tracks has in common. Blocks: for a worker thread."""
    pairs = list(combinations(range(len(tracks)), 2))
    around, among = dict.fromkeys(pairs, 0), dict.fromkeys(pairs, 0)
    found: dict[Pair, list[NDArray[np.float64]]] = {pair: [np.zeros((3, 0))] for pair in pairs}
    for start in range(0, samples_of(tracks), WINDOWS * WINDOW):
        from_thread.check_cancelled()
        spoken = [_spoken(heard.speech, start) for heard in tracks]
        stretch = _Stretch(tracks, start)
        for pair in pairs:
            rows = np.flatnonzero(spoken[pair[0]] & spoken[pair[1]])
            if len(rows):
                common = stretch.common(pair, rows, around[pair])
                among[pair] += len(rows)
                around[pair] = _followed(around[pair], common[1])
                found[pair].append(common)
    columns = {pair: np.concatenate(parts, axis=1) for pair, parts in found.items()}
    return {pair: Likeness(starts, lags, levels, among[pair]) for pair, (starts, lags, levels) in columns.items()}


def speaking(speech: Sequence[Region], start: int, count: int, length: int) -> NDArray[np.bool_]:
    """Whether the middle of each of ``count`` stretches of ``length`` samples, from ``start`` on, lies in speech."""
    edges = np.array([edge for region in speech for edge in (region.start, region.end)])
    middles = start + length // 2 + length * np.arange(count)
    return np.asarray(np.searchsorted(edges, middles, side="right") % 2 == 1)


def _spoken(speech: Sequence[Region], start: int) -> NDArray[np.bool_]:
    parts = speaking(speech, start, WINDOWS * PARTS, WINDOW // PARTS)
    return np.asarray(parts.reshape(WINDOWS, PARTS).mean(axis=1) >= SPOKEN)


def _followed(around: int, lags: NDArray[np.float64]) -> int:
    """Where to look for lags next."""
    if not len(lags):
        return around
    below = min(0.0, float(np.min(lags)) - around + FOLLOW)
    above = max(0.0, float(np.max(lags)) - around - FOLLOW)
    return around + round(below + above)


class _Stretch:
    """The windows of all tracks from a sample on; a track is transformed once, unless clocks have drifted."""

    def __init__(self, tracks: Sequence[Heard], start: int) -> None:
        self._tracks, self._start = tracks, start
        self._spectra: dict[tuple[int, int], NDArray[np.complex64]] = {}

    def common(self, pair: Pair, rows: NDArray[np.intp], around: int) -> NDArray[np.float64]:
        """Starts, lags and levels, shape (3, n), of those of these windows that have a sound in common."""
        first, second = self._spectrum(pair[0], 0)[rows], self._spectrum(pair[1], -around)[rows]
        correlation = np.abs(_correlation(first, second))
        peaks = correlation.argmax(axis=1)
        clear = correlation.max(axis=1) > CLEAR * np.sqrt(np.mean(np.square(correlation), axis=1))
        lags = (peaks - REACH // STEP) * STEP + around
        levels = 10 * np.log10(_power(first) / _power(second))
        return np.stack([self._start + rows * WINDOW, lags, levels])[:, clear]

    def _spectrum(self, track: int, shift: int) -> NDArray[np.complex64]:
        key = track, shift
        if key not in self._spectra:
            sound = stretch_of(self._tracks[track].spool, self._start + shift, WINDOWS * WINDOW)
            spectrum = np.fft.rfft(sound.reshape(WINDOWS, WINDOW), axis=1)[:, LOWEST : HIGHEST + 1]
            self._spectra[key] = spectrum.astype(np.complex64)
        return self._spectra[key]


def stretch_of(spool: Spool, start: int, count: int) -> Floats:
    """Samples ``start`` … ``start + count``, float32, shape (count,), with silence before the track and after it."""
    sound = np.zeros(count, np.float32)
    before = max(0, -start)
    there = spool.stretch(start + before, count - before)
    sound[before : before + len(there)] = floats(there)
    return sound


def _correlation(first: NDArray[np.complex64], second: NDArray[np.complex64]) -> Floats:
    """GCC-PHAT at lags -REACH … REACH, shape (windows, lags)."""
    cross = np.zeros((len(first), HIGHEST + 1), np.complex64)
    cross[:, LOWEST:] = first * np.conj(second)
    cross /= np.abs(cross) + np.float32(1e-9)
    lags = np.fft.irfft(cross, 2 * HIGHEST, axis=1)
    side = REACH // STEP
    return np.concatenate([lags[:, -side:], lags[:, : side + 1]], axis=1)


def _power(spectrum: NDArray[np.complex64]) -> Floats:
    power: Floats = np.sum(np.square(np.abs(spectrum)), axis=1) + np.float32(1e-6)
    return power

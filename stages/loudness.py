"""How loud a track is, frame by frame and band by band, beside its own noise and with what a room adds to it."""

from __future__ import annotations

from typing import Final

import numpy as np

from stages.likeness import stretch_of
from stages.spool import SAMPLE_RATE, Spool
from stages.voice import Floats

FRAME: Final = SAMPLE_RATE // 50  # 20 ms
FRAMES: Final = 1500  # in one stretch: 30 s
# Edges of the bands, in lines of 50 Hz: narrow where voices have their harmonics, wider above, as the ear has them.
EDGES: Final = (2, 4, 6, 8, 10, 13, 16, 20, 25, 31, 38, 46, 56, 68, 84, 104, 130)
BANDS: Final = len(EDGES) - 1

FLOOR: Final = 10  # percentile of the levels of a band that is taken for its noise
SILENCE: Final = 1e-7  # power of a band below which nothing is heard: about -100 dBFS
DECAY: Final = 3.0  # dB a frame: a room in which sound dies by 60 dB in 0.4 s


class Loudness:
    """Of one stretch of a track, ``start`` in samples. All levels in dB, float32, shape (FRAMES, BANDS).

    ``halo``: frames before and after the stretch in which voices may be looked for that are heard in it.
    """

    def __init__(self, spool: Spool, start: int, halo: int) -> None:
        sound = stretch_of(spool, start - halo * FRAME, (FRAMES + 2 * halo) * FRAME)
        self._halo = halo
        self._levels = _levels(sound)
        self._lingering = _lingering(self._levels)
        self.levels = self._levels[halo : halo + FRAMES]
        recorded = np.count_nonzero(sound.reshape(-1, FRAME), axis=1)[halo : halo + FRAMES] > 0
        self.above_noise: Floats = self.levels - _noise(self.levels[recorded])

    def later(self, samples: float) -> Floats:
        """The levels as another microphone would have them that hears the same so much later, in a room."""
        first = self._halo - round(samples / FRAME)
        return self._lingering[first : first + FRAMES]


def _levels(sound: Floats) -> Floats:
    lines = np.fft.rfft(sound.reshape(-1, FRAME) * np.hanning(FRAME).astype(np.float32), axis=1)
    power = np.add.reduceat(np.square(np.abs(lines)), EDGES, axis=1)[:, :BANDS]
    return (10 * np.log10(power + SILENCE)).astype(np.float32)


def _noise(levels: Floats) -> Floats:
    """Of each band, from frames that have been recorded: where a track has ended, or is muted, it has no noise."""
    if not len(levels):
        return np.zeros(BANDS, np.float32)
    return np.percentile(levels, FLOOR, axis=0).astype(np.float32)


def _lingering(levels: Floats) -> Floats:
    """Each level held from a frame early, for frames of two tracks do not meet, and let die as in a room."""
    early = np.maximum(levels, np.concatenate([levels[1:], levels[-1:]]))
    fall = np.float32(DECAY) * np.arange(len(levels), dtype=np.float32)[:, None]
    lingering: Floats = np.maximum.accumulate(early + fall, axis=0) - fall
    return lingering

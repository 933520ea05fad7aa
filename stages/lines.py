"""One stream's frames on their way into tracks: gathered, one channel or the mean of all, resampled, put in place.

    Source (a stream) ─▶ Line (a channel of it, or all) ─▶ Mix (a track)

A line writes at its own place on the media's clock; what several lines write at one time is summed in the spool, and
published when all of them have passed it. So a late stream costs disk, never memory, and nothing of it is lost.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from numpy.typing import NDArray

from pipeline.errors import JobError, MediaCorrupt, MediaTooLarge, MediaUnsupported
from pipeline.transcript import Notice
from stages.clock import Hand
from stages.disk import Loan
from stages.mixing import Sound, mean
from stages.spool import BYTES_PER_SAMPLE, SAMPLE_RATE, Samples, Spool
from stages.tracks import Feed

GROUP_SAMPLES: Final = 500_000  # of all channels; resampling many frames at once takes a third less time than singly
GROUP_SECONDS: Final = 30  # at a low rate so many samples would become many times as many
LOWEST_RATE: Final = 4_000  # half a telephone's
HIGHEST_RATE: Final = 3_072_000  # DSD512, as it is decoded, has 2.8 MHz; the resampler's memory grows with the rate
# Sample value of silence and of full scale, by numpy type of a decoded frame.
SCALES: Final = {
    "uint8": (128, 128),
    "int16": (0, 1 << 15),
    "int32": (0, 1 << 31),
    "int64": (0, 1 << 63),
    "float32": (0, 1),
    "float64": (0, 1),
}


@dataclass(eq=False, slots=True)
class Mix:
    """A track on its way: its id, its spool, and the lines that write to it.

    ``loan``: the disk that the job may fill.
    """

    track: str
    spool: Spool
    loan: Loan
    error: JobError | None = None
    warnings: list[Notice] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)
    _end: int = 0

    def put(self, start: int, samples: Samples) -> None:
        """Add samples, shape (n,), from sample ``start`` on; what lies before time 0 is dropped.

        Nothing more is kept of a track that is broken.
        """
        if self.error:
            return
        samples, start = samples[max(0, -start) :], max(0, start)
        if len(samples):
            end = max(self._end, start + len(samples))
            self.loan.spend((end - self._end) * BYTES_PER_SAMPLE)
            self.spool.mix(start, samples)
            self._end = end

    def publish(self) -> None:
        """Let that be read which no line will write to any more."""
        self.spool.publish(min((line.position for line in self.lines if not line.ended), default=sys.maxsize))

    def finish(self, error: JobError | None) -> None:
        """``error``: the whole job's. A fault of a source is the track's where it has no other sound.

        Called on the event loop, once nothing is written any more.
        """
        faults = [line.source.fault for line in self.lines if line.source.fault]
        heard = [line.source for line in self.lines if line.source.heard]
        own = faults[0] if faults and not heard else None
        if heard:
            self.warnings += [self._notice("stream-unsupported", fault.detail) for fault in faults]
        if damaged := sum(source.damaged for source in heard):
            detail = f"Pieces of the audio that could not be decoded, and are missing: {damaged}."
            self.warnings.append(self._notice("media-damaged", detail))
        self.spool.end(error or self.error or own, tuple(self.warnings))

    def _notice(self, code: str, detail: str) -> Notice:
        return Notice(code=code, track=self.track, detail=detail)


@dataclass(eq=False, slots=True)
class Line:
    """One feed on its way into its track. ``position``: the sample before which it has written everything.

    Negative where an offset has moved the sound before time 0.
    """

    feed: Feed
    mix: Mix
    source: Source
    position: int = 0
    ended: bool = False
    _resampler: AudioResampler | None = None

    def move(self, seconds: float) -> None:
        """What comes next begins there in the file. Only after ``flush``."""
        place = round((seconds + self.feed.offset) * SAMPLE_RATE)
        self.position = place if self.position <= 0 else max(self.position, place)

    def write(self, sound: Sound, rate: int) -> None:
        """``sound``: shape (channels, n). A channel that it does not have (any more) is silent."""
        channel = self.feed.channel
        if channel is None:
            samples = mean(sound, rate)
        else:
            samples = sound[channel] if channel < len(sound) else np.zeros(sound.shape[1], np.float32)
        frame = AudioFrame.from_ndarray(np.ascontiguousarray(samples[None]), format="fltp", layout="mono")
        frame.sample_rate = rate
        self._resampler = self._resampler or AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE)
        self._put(self._resampler.resample(frame))

    def check(self, end: float, most: float) -> None:
        """Break the track where its offset takes what ends at ``end`` in the file beyond ``most`` seconds."""
        if end + self.feed.offset > most:
            self.mix.error = MediaTooLarge(
                f"With its offset of {self.feed.offset:g} s the track is longer than {most:.0f} s, "
                "the most that is taken here."
            )

    def flush(self) -> None:
        """Write what the resampler holds back; what comes next may have another rate or place."""
        if self._resampler is not None:
            self._put(self._resampler.resample(None))
            self._resampler = None

    def end(self) -> None:
        self.ended = True
        self.mix.publish()

    def _put(self, frames: Iterable[AudioFrame]) -> None:
        for frame in frames:
            self.mix.put(self.position, frame.to_ndarray().reshape(-1).astype(np.int16, copy=False))
            self.position += frame.samples
        self.mix.publish()


class Source:
    """One stream of a file, gathered into groups of frames for the lines that it feeds.

    Groups are whole seconds, counted from where the sound begins: what is made of them does not depend on packets.
    ``fault``: why no more of it can be used; ``damaged``: how many pieces of it could not be decoded.
    """

    def __init__(self, hand: Hand, max_seconds: float) -> None:
        self.lines: list[Line] = []
        self.packets = self.damaged = 0
        self.heard = False
        self.fault: JobError | None = None
        self._hand, self._max_seconds = hand, max_seconds
        self._group: list[NDArray[Any]] = []
        self._grouped = 0
        self._form: tuple[int, int, np.dtype[Any]] = (0, 0, np.dtype(np.float32))

    def take(self, frame: AudioFrame, time: float | None) -> None:
        """Raises ``MediaTooLarge`` where the frame ends too late."""
        rate, due = frame.sample_rate, self._hand.end
        if not LOWEST_RATE <= rate <= HIGHEST_RATE:
            self.fault = MediaUnsupported(
                f"The audio has a sample rate of {rate} Hz; from {LOWEST_RATE} to {HIGHEST_RATE} Hz are taken here."
            )
            return
        start = self._hand.place(time, frame.samples / rate)
        if self._hand.end > self._max_seconds:
            raise MediaTooLarge(f"The recording is longer than {self._max_seconds:.0f} s, the most that is taken here.")
        for line in self.lines:
            line.check(self._hand.end, self._max_seconds)
        sound = planes(frame)
        if start < due:
            sound, start = sound[:, round((due - start) * rate) :], due
        if start > due or not self.heard or (rate, len(sound), sound.dtype) != self._form:
            self._begin(start, rate, sound)
        self.heard = True
        self._group.append(sound)
        self._grouped += sound.shape[1]
        if self._grouped >= min(max(GROUP_SAMPLES // len(sound), rate), GROUP_SECONDS * rate):
            self._pass_on(self._grouped - self._grouped % rate)

    def pass_over(self, time: float | None, seconds: float) -> None:
        """Let the clock know of sound that nobody wants."""
        self._hand.place(time, seconds)

    def end(self, *, silent: bool) -> None:
        """Nothing more comes: write all that is held back. Unless it may be ``silent``, some sound must have come."""
        self._flush()
        if not (self.heard or self.fault or silent):
            self.fault = MediaCorrupt("Nothing of the audio could be decoded.")
        for line in self.lines:
            line.end()

    @property
    def ends(self) -> float:
        """How far the stream has come on the media's clock, in seconds."""
        return self._hand.end

    def _flush(self) -> None:
        self._pass_on(self._grouped)
        for line in self.lines:
            line.flush()

    def _begin(self, start: float, rate: int, sound: NDArray[Any]) -> None:
        self._flush()
        self._form = rate, len(sound), sound.dtype
        for line in self.lines:
            line.move(start)

    def _pass_on(self, count: int) -> None:
        if count:
            sound = np.concatenate(self._group, axis=1)
            rate, *_ = self._form
            whole = scaled(sound[:, :count])
            for line in self.lines:
                line.write(whole, rate)
            self._grouped -= count
            self._group = [sound[:, count:].copy()] if self._grouped else []


def planes(frame: AudioFrame) -> NDArray[Any]:
    """All channels of a decoded frame as they are, shape (channels, n)."""
    data: NDArray[Any] = _wide(frame) if frame.format.name == "s64" else frame.to_ndarray()
    return data if frame.format.is_planar else data.reshape(-1, frame.layout.nb_channels).T


def scaled(sound: NDArray[Any]) -> Sound:
    """The same as float32, full scale at −1 … 1. Of many frames at once, each of which would take as long alone."""
    silence, full = SCALES[sound.dtype.name]
    return (sound.astype(np.float32) - np.float32(silence)) / np.float32(full)


def _wide(frame: AudioFrame) -> NDArray[np.int64]:
    """Samples of 64 bits, of which PyAV makes no array."""
    return np.frombuffer(memoryview(frame.planes[0]), np.int64)[: frame.samples * frame.layout.nb_channels]

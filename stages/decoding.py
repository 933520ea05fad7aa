"""Decoding: all files of one job in one pass on one thread, each frame to the places where it belongs.

    streams of the files ─▶ feeds ─▶ lines (clock, mono, 16 kHz) ─▶ one spool a track

A line writes at its own place on the media's clock; what several lines write at one time is summed in the spool, and
published when all of them have passed it. So a late stream costs disk, never memory, and nothing of it is lost.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Final

import anyio
import numpy as np
import structlog
from anyio import CapacityLimiter, from_thread, to_thread
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from numpy.typing import NDArray

from pipeline.claim import Claim
from pipeline.errors import Internal, JobError, MediaCorrupt, MediaTooLarge, MediaUnsupported
from pipeline.transcript import Notice, Track
from stages.mediafile import MediaFile
from stages.spool import SAMPLE_RATE, Spool

log = structlog.get_logger()

JITTER_SECONDS: Final = 0.020  # containers round time stamps to 1 ms, and some encoders wander by a few
OVERLAP_SECONDS: Final = 1.0  # a file that was joined repeats at most an encoder's delay
JUMP_SECONDS: Final = 2 * 3600.0  # no stream falls silent so long; its clock was set anew
GROUP_SAMPLES: Final = 500_000  # resampling many frames at once takes a third less time than one by one
GROUP_SECONDS: Final = 30  # at a low rate so many samples would become many times as many
LOWEST_RATE: Final = 4_000  # half a telephone's
HIGHEST_RATE: Final = 3_072_000  # DSD512, as it is decoded, has 2.8 MHz; the resampler's memory grows with the rate
# Sample value of silence and of full scale, by numpy type of a decoded frame.
SCALES: Final = {
    "uint8": (128, 128),
    "int16": (0, 1 << 15),
    "int32": (0, 1 << 31),
    "float32": (0, 1),
    "float64": (0, 1),
}


@dataclass(frozen=True, slots=True)
class Feed:
    """Where a track's sound comes from; ``channel`` ``None``: the mean of all channels."""

    file: int
    stream: int
    channel: int | None = None


@dataclass(frozen=True, slots=True)
class TrackPlan:
    track: Track
    feeds: tuple[Feed, ...]


class Clock:
    """Tells where the frames of one stream belong: ``end`` is where the last one ended, in seconds."""

    def __init__(self) -> None:
        self.end = 0.0
        self._shift = 0.0
        self._jitter = 0.0

    def place(self, time: float | None, seconds: float) -> float:
        """Where a frame of this length starts: at ``end``, after it (a hole) or before it (an overlap)."""
        start = self.end if time is None else time + self._shift
        gap = start - self.end
        if gap >= JUMP_SECONDS or gap <= -OVERLAP_SECONDS:
            self._shift -= gap
            start = self.end
        elif abs(gap) < self._jitter:
            start = self.end
        self.end = max(self.end, start + seconds)
        self._jitter = JITTER_SECONDS  # the first frame alone says where the stream begins
        return start


@dataclass(eq=False, slots=True)
class Line:
    """One feed on its way into its track. ``position``: the sample before which it has written everything."""

    feed: Feed
    spool: Spool
    max_seconds: float
    position: int = 0
    ended: bool = False
    _clock: Clock = field(default_factory=Clock)
    _rate: int = 0
    _group: list[NDArray[np.float32]] = field(default_factory=list)
    _grouped: int = 0
    _resampler: AudioResampler | None = None

    def take(self, frame: AudioFrame, time: float | None) -> None:
        """Raises ``MediaUnsupported`` for an odd sample rate, ``MediaTooLarge`` where the frame ends too late."""
        rate, due = frame.sample_rate, self._clock.end
        if not LOWEST_RATE <= rate <= HIGHEST_RATE:
            raise MediaUnsupported(
                f"The audio has a sample rate of {rate} Hz; from {LOWEST_RATE} to {HIGHEST_RATE} Hz are taken here."
            )
        start = self._clock.place(time, frame.samples / rate)
        if self._clock.end > self.max_seconds:
            raise MediaTooLarge(f"The recording is longer than {self.max_seconds:.0f} s, the most that is taken here.")
        samples = mono(frame, self.feed.channel)
        if start < due:
            samples, start = samples[round((due - start) * rate) :], due
        if start > due or rate != self._rate:
            self.flush()
            self._rate, self.position = rate, max(self.position, round(start * SAMPLE_RATE))
        self._group.append(samples)
        self._grouped += len(samples)
        if self._grouped >= min(GROUP_SAMPLES, GROUP_SECONDS * rate):
            self._resample()

    def flush(self) -> None:
        """Write all that is held back; what comes next may have another rate or place."""
        if self._grouped:
            self._resample()
        if self._resampler is not None:
            self._write(self._resampler.resample(None))
            self._resampler = None

    def _resample(self) -> None:
        frame = AudioFrame.from_ndarray(np.concatenate(self._group)[None], format="fltp", layout="mono")
        frame.sample_rate = self._rate
        self._group, self._grouped = [], 0
        self._resampler = self._resampler or AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE)
        self._write(self._resampler.resample(frame))

    def _write(self, frames: Iterable[AudioFrame]) -> None:
        for frame in frames:
            self.spool.mix(self.position, frame.to_ndarray().reshape(-1).astype(np.int16, copy=False))
            self.position += frame.samples


def mono(frame: AudioFrame, channel: int | None) -> NDArray[np.float32]:
    """One channel, or the mean of all, of a decoded frame: shape (n,), full scale at −1 … 1."""
    data = frame.to_ndarray()
    channels = data if frame.format.is_planar else data.reshape(-1, frame.layout.nb_channels).T
    chosen = channels if channel is None else channels[channel : channel + 1]
    # Row by row: numpy takes ten times as long for the mean over so short an axis.
    picked = reduce(np.add, chosen.astype(np.float32)) / len(chosen)
    silence, full = SCALES[data.dtype.name]
    scaled: NDArray[np.float32] = ((picked - np.float32(silence)) / np.float32(full)).astype(np.float32)
    return scaled


class Decoding:
    """All files of one claim on their way into its spools, by one worker thread."""

    def __init__(
        self, files: Sequence[MediaFile], plans: Sequence[TrackPlan], spools: Sequence[Spool], max_seconds: float
    ) -> None:
        self._files, self._spools = files, spools
        pairs = zip(plans, spools, strict=True)
        self._lines = [Line(feed, spool, max_seconds) for plan, spool in pairs for feed in plan.feeds]
        self._scope = anyio.CancelScope()
        self._stopped = anyio.Event()

    async def run(self, claim: Claim, threads: CapacityLimiter) -> None:
        try:
            with self._scope, claim.holding(self._scope):
                await to_thread.run_sync(self._decode, limiter=threads)
        finally:
            self._stopped.set()

    async def stop(self) -> None:
        """Wait until the thread has let go of the files, however far it is."""
        self._scope.cancel()
        await self._stopped.wait()
        for spool in self._spools:
            spool.close()

    def _decode(self) -> None:
        error: JobError | None = None
        warnings: tuple[Notice, ...] = ()
        try:
            warnings = tuple(notice for number in range(len(self._files)) for notice in self._decode_file(number))
        except JobError as known:
            error = known
        except Exception as unforeseen:  # whatever it is, the spools' readers wait to be told
            log.exception("decoding-failed")
            error = _untold(unforeseen)
        for spool in self._spools:
            spool.finish(error, warnings)

    def _decode_file(self, number: int) -> list[Notice]:
        file = self._files[number]
        lines = [line for line in self._lines if line.feed.file == number]
        with file.container:
            for packet in file.packets():
                from_thread.check_cancelled()
                fed = [line for line in lines if line.feed.stream == packet.stream_index]
                for frame, time in file.frames(packet):
                    for line in fed:
                        line.take(frame, time)
                self._publish()
            for line in lines:
                line.flush()
                line.ended = True
            self._publish()
            end = max(line.position for line in lines) / SAMPLE_RATE
            if not end:
                raise MediaCorrupt("Nothing in the file's audio could be decoded.")
            return list(file.notices(end))

    def _publish(self) -> None:
        for spool in self._spools:
            behind = [line.position for line in self._lines if line.spool is spool and not line.ended]
            spool.publish(min(behind, default=0))


def _untold(unforeseen: Exception) -> Internal:
    """What a client may know of it: a disk may have room again at the next attempt, a bug comes again."""
    if not isinstance(unforeseen, OSError):
        return Internal()
    reason = unforeseen.strerror or type(unforeseen).__name__
    detail = f"The service could not use its own disk: {reason}. Whoever runs it should look at the disk of DATA_DIR."
    return Internal(detail, retryable=True)

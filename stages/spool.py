"""A track's samples in a scratch file that one thread writes while tasks read it.

int16, mono, 16 000 Hz, little-endian, sample 0 at time 0 of the media's clock. Memory does not grow with length.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Final

import anyio
import numpy as np
from anyio import from_thread, to_thread
from numpy.typing import NDArray

from pipeline.errors import Internal, JobError
from pipeline.transcript import Notice

SAMPLE_RATE: Final = 16_000
BYTES_PER_SAMPLE: Final = 2
BYTES_PER_SECOND: Final = SAMPLE_RATE * BYTES_PER_SAMPLE
Samples = NDArray[np.int16]


@dataclass(frozen=True, slots=True)
class Region:
    """A stretch of a track, in samples."""

    start: int
    end: int


class Spool:
    """Written by one worker thread, read from the event loop by ``read``.

    What is written can be read once it is published, and does not change after that.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._begins: int | None = None
        self._written = 0
        self._published = 0
        self._ended = False
        self._grown = anyio.Event()
        self._wanted: float = inf  # the least sample count that a reader waits for
        self.error: JobError | None = None
        self.warnings: tuple[Notice, ...] = ()

    def append(self, samples: Samples) -> None:
        """Add samples, shape (n,), at the end and publish them. Called from the decoding thread."""
        self.mix(self._written, samples)
        self.publish(self._written)

    def mix(self, start: int, samples: Samples) -> None:
        """Add samples, shape (n,), to the sound that is there from sample ``start`` on; a hole before it is silence.

        Sums beyond int16 are clipped. Raises ``ValueError`` where ``start`` is published. Called from the decoding
        thread.
        """
        if start < self._published:
            raise ValueError(f"Sample {start} of {self._path.name} is published and cannot change any more.")
        with self._path.open("r+b" if self._written else "w+b") as file:
            file.seek(start * BYTES_PER_SAMPLE)
            there = np.frombuffer(file.read(len(samples) * BYTES_PER_SAMPLE), dtype="<i2")
            mixed = samples.astype(np.int32)
            mixed[: len(there)] += there
            file.seek(start * BYTES_PER_SAMPLE)
            file.write(np.clip(mixed, -32768, 32767).astype("<i2").tobytes())
        self._begins = start if self._begins is None else min(self._begins, start)
        self._written = max(self._written, start + len(samples))

    def publish(self, end: int) -> None:
        """Let everything written before sample ``end`` be read. Called from the decoding thread."""
        reached = min(end, self._written)
        if reached > self._published:
            self._published = reached
            if reached >= self._wanted:  # else it would be a visit to the event loop for nothing
                from_thread.run_sync(self._wake)

    def finish(self, error: JobError | None = None, warnings: tuple[Notice, ...] = ()) -> None:
        """Nothing more will come: publish all. With ``error`` the track is broken. Called from the decoding thread."""
        from_thread.run_sync(self.end, error, warnings)

    def end(self, error: JobError | None, warnings: tuple[Notice, ...]) -> None:
        """What ``finish`` does, for whoever is on the event loop already. Nothing may be written any more."""
        self.error, self.warnings = error, warnings
        self._published = self._written
        self._ended = True
        self._wake()

    def close(self) -> None:
        """Its writer is gone; a reader must not wait, nor take what is there for the whole."""
        if not self._ended:
            self.error = Internal("Decoding was stopped before its end.", retryable=True)
            self._ended = True
            self._wake()

    def erase(self) -> None:
        """Free its disk; nobody may read it any more. Blocks: for a worker thread."""
        self._path.unlink(missing_ok=True)

    @property
    def ended(self) -> bool:
        return self._ended

    @property
    def seconds(self) -> float:
        """How much has arrived so far."""
        return self._published / SAMPLE_RATE

    @property
    def length(self) -> int:
        """How many samples have arrived so far."""
        return self._published

    @property
    def begins(self) -> float:
        """Where the first sound lies on the media's clock, in seconds; 0 while there is none."""
        return (self._begins or 0) / SAMPLE_RATE

    async def read(self, start: int, count: int) -> Samples:
        """Samples ``start`` … ``start + count``, shape (n,), waiting until they are there; fewer only at the end."""
        await self.reached(start + count)
        held = min(count, max(0, self._published - start))
        return await to_thread.run_sync(self.stretch, start, held)

    async def reached(self, end: int) -> None:
        """Wait until all samples before ``end`` are there, or until nothing more will come."""
        while True:
            # Said before it looks, and the writer looks here after it has published: one of the two sees the other.
            self._wanted = min(self._wanted, end)
            if self._published >= end or self._ended:
                return
            await self._grown.wait()

    def stretch(self, start: int, count: int) -> Samples:
        """What is there of samples ``start`` … ``start + count``, shape (n,), at once. Blocks: for a worker thread."""
        count = max(0, min(count, self._published - start))
        if not count:
            return np.zeros(0, np.int16)
        with self._path.open("rb") as file:
            file.seek(start * BYTES_PER_SAMPLE)
            return np.frombuffer(file.read(count * BYTES_PER_SAMPLE), dtype="<i2").astype(np.int16)

    def _wake(self) -> None:
        self._wanted = inf
        grown, self._grown = self._grown, anyio.Event()
        grown.set()

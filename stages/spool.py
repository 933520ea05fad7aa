"""A track's samples in a scratch file that one thread writes while tasks read it.

int16, mono, 16 000 Hz, little-endian, sample 0 at time 0 of the media's clock. Memory does not grow with length.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import anyio
import numpy as np
from anyio import from_thread, to_thread
from numpy.typing import NDArray

from pipeline.errors import JobError
from pipeline.transcript import Notice

SAMPLE_RATE: Final = 16_000
BYTES_PER_SAMPLE: Final = 2
Samples = NDArray[np.int16]


class Spool:
    """Written by one worker thread through ``append`` and ``finish``, read from the event loop by ``read``."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("w+b", buffering=0)
        self._samples = 0
        self._ended = False
        self._grown = anyio.Event()
        self.error: JobError | None = None
        self.warnings: tuple[Notice, ...] = ()

    def append(self, samples: Samples) -> None:
        """Add samples, shape (n,). Called from the decoding thread."""
        self._file.write(samples.astype("<i2", copy=False).tobytes())
        self._samples += len(samples)
        from_thread.run_sync(self._wake)

    def finish(self, error: JobError | None = None, warnings: tuple[Notice, ...] = ()) -> None:
        """Nothing more will come. With ``error`` the track is broken. Called from the decoding thread."""
        self.error, self.warnings = error, warnings
        self._ended = True
        from_thread.run_sync(self._wake)

    def close(self) -> None:
        """Give the file handle back; the file itself goes with the claim's scratch directory."""
        self._file.close()

    @property
    def ended(self) -> bool:
        return self._ended

    @property
    def seconds(self) -> float:
        """How much has arrived so far."""
        return self._samples / SAMPLE_RATE

    async def read(self, start: int, count: int) -> Samples:
        """Samples ``start`` … ``start + count``, shape (n,), waiting until they are there; fewer only at the end."""
        while self._samples < start + count and not self._ended:
            await self._grown.wait()
        held = min(count, max(0, self._samples - start))
        return await to_thread.run_sync(self._pread, start, held)

    def _pread(self, start: int, count: int) -> Samples:
        with self._path.open("rb") as file:
            file.seek(start * BYTES_PER_SAMPLE)
            return np.frombuffer(file.read(count * BYTES_PER_SAMPLE), dtype="<i2").astype(np.int16)

    def _wake(self) -> None:
        grown, self._grown = self._grown, anyio.Event()
        grown.set()

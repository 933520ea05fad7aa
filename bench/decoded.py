"""One file decoded in a process of its own, so that nobody else's memory and time are counted with it.

`python -m bench.decoded FILE` prints what it took, as JSON.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter, process_time
from typing import Final

import anyio
from anyio import to_thread

from bench.tracks import demuxed

BEYOND: Final = 1 << 40  # no track has so many samples


@dataclass(frozen=True, slots=True)
class Decoded:
    """``seconds`` is the length of the media; ``peak`` and ``disk`` are bytes, of memory and of decoded tracks."""

    tracks: int
    seconds: float
    wall: float
    cpu: float
    peak: int
    disk: int

    @classmethod
    def apart(cls, path: Path) -> Decoded:
        """What it takes another process."""
        command = [sys.executable, "-m", "bench.decoded", str(path)]
        told = subprocess.run(command, cwd=Path(__file__).parent.parent, stdout=subprocess.PIPE, check=True)
        return cls(**json.loads(told.stdout))


async def decode(path: Path, scratch: Path) -> Decoded:
    began, cpu = perf_counter(), process_time()
    async with demuxed(path, scratch) as tracks:
        for track in tracks:
            await track.spool.read(BEYOND, 1)
            if track.spool.error:
                raise track.spool.error
        wall, cpu = perf_counter() - began, process_time() - cpu
        seconds = max(track.spool.seconds for track in tracks)
    return Decoded(len(tracks), seconds, wall, cpu, _peak(), disk=await to_thread.run_sync(_size, scratch))


def _size(folder: Path) -> int:
    """What its files really take of the disk; holes take nothing."""
    return sum(file.stat().st_blocks * 512 for file in folder.iterdir())


def _peak() -> int:
    status = Path("/proc/self/status")
    if status.exists():  # what getrusage says there includes the parent, as it was when it started us
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main(path: str) -> None:
    with tempfile.TemporaryDirectory(dir=Path(path).parent) as scratch:
        print(json.dumps(asdict(anyio.run(decode, Path(path), Path(scratch)))))


if __name__ == "__main__":
    main(sys.argv[1])

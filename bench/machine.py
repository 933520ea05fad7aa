"""Where and with what something was measured: figures mean little without it."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Final

from pipeline.settings import GIB, cores

LIBRARIES: Final = ("antiphon", "anyio", "av", "ctranslate2", "faster-whisper", "hypercorn", "numpy", "onnxruntime")


@dataclass(frozen=True, slots=True)
class Machine:
    """``load`` is how much else was running, in processes waiting for a core, over the minute before."""

    time: str
    system: str
    processor: str
    cores: int
    memory_gib: float
    load: float
    python: str
    commit: str
    versions: Mapping[str, str]

    @classmethod
    def here(cls) -> Machine:
        return cls(
            time=datetime.now(UTC).isoformat(timespec="seconds"),
            system=f"{platform.system()} {platform.release()}",
            processor=_processor(),
            cores=cores(),
            memory_gib=round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB, 1),
            load=round(os.getloadavg()[0], 2),
            python=platform.python_version(),
            commit=_commit(),
            versions={name: version(name) for name in LIBRARIES},
        )

    def __str__(self) -> str:
        memory = f"{self.memory_gib} GiB"
        return f"{self.processor}, {self.cores} cores, {memory}, load {self.load}; Python {self.python}; {self.commit}"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _commit() -> str:
    """Short, with ``+`` when files differ from it; the figures of a changed tree are nobody else's."""
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--abbrev=9", "--dirty=+", "--exclude=*"]
    try:
        told = subprocess.run(git, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "no commit"
    return told.stdout.strip()

"""What is changed of glibc's allocator changes no answer, only when memory is mapped and given back."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.conformance.engine_suite import Clip

GLIBC = hasattr(ctypes.CDLL(None), "gnu_get_libc_version")

# 29 s together: for windows this long the encoder takes pieces that glibc as it comes maps anew.
LONG = ("jfk", "austen_0870", "austen_0890", "leopard_en")

DRAFT = """
import sys
import numpy as np
from pipeline.settings import EngineSettings
from stages.engines import CancelFlag, Window, faster_whisper

keeping = sys.argv[2] == "keeping"
engine = faster_whisper.load(EngineSettings(model="base", device="cpu", threads=1, keep_freed_memory=keeping))
print(engine.run([engine.prepare(Window(np.load(sys.argv[1])))], CancelFlag()))
"""

# Megabytes kept and given back. Pieces of 48 MiB are freed under one that stays.
KEEPING = """
import ctypes, sys
from pathlib import Path
from stages.engines.allocator import give_back_freed_memory, keep_freed_memory

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4 // 1024

keep_freed_memory()
pieces = [libc.malloc(48 << 20) for _ in range(4)]
before = resident()
for piece in pieces:
    ctypes.memset(piece, 1, 48 << 20)
    libc.free(piece)
kept = resident() - before
give_back_freed_memory()
print(kept, resident() - before)
"""


def child(script: str, *arguments: str) -> str:
    told = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=True)
    return told.stdout


@pytest.mark.skipif(not GLIBC, reason="the C library is not glibc")
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is read from /proc")
def test_what_is_freed_is_kept_until_it_is_given_back() -> None:
    kept, left = map(int, child(KEEPING).split())
    assert kept > 150
    assert left < 10


@pytest.mark.skipif(not GLIBC, reason="the C library is not glibc")
@pytest.mark.weights
@pytest.mark.usefixtures("base")
def test_a_draft_is_the_same_to_the_last_bit(clip: Callable[[str], Clip], tmp_path: Path) -> None:
    np.save(samples := tmp_path / "samples.npy", np.concatenate([clip(name) for name in LONG]))
    ours = child(DRAFT, str(samples), "keeping")
    assert "ask what you can do for your country" in ours
    assert ours == child(DRAFT, str(samples), "as it comes")

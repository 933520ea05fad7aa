"""How glibc keeps memory between two windows: at hand for the next one, not given back to the system at once.

The encoder takes and frees tens of megabytes for every layer. As glibc comes, it maps such pieces anew each time, and
the system fills them with zeros: 1.0 s of a core for base to encode 30 s, with 150,000 page faults, instead of 0.64 s
with none. The numbers it computes stay the same. ``ENGINE__KEEP_FREED_MEMORY`` turns it off.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Final

# mallopt(3), from malloc.h
M_TRIM_THRESHOLD: Final = -1
M_MMAP_MAX: Final = -4
M_ARENA_MAX: Final = -8

KEEPING: Final = {
    M_MMAP_MAX: 0,  # nothing is mapped for itself
    M_TRIM_THRESHOLD: 2**31 - 1,  # and the end of the heap stays, however much of it is free
    M_ARENA_MAX: 1,  # only the main heap grows without being mapped; threads do not notice that they share it
}


def keep_freed_memory() -> None:
    """For the whole process and for good. Other C libraries are left as they are.

    Threads that have allocated before keep the heaps that they have: call it before a model starts its own.
    """
    if glibc := _glibc():
        for option, value in KEEPING.items():
            glibc.mallopt(option, value)


def give_back_freed_memory() -> None:
    """To the system, at once; the next window pays for it as the first one did."""
    if glibc := _glibc():
        glibc.malloc_trim(0)


@cache
def _glibc() -> ctypes.CDLL | None:
    process = ctypes.CDLL(None)
    return process if hasattr(process, "gnu_get_libc_version") else None

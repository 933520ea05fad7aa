"""The server that a data directory tells of, and the end of one that was left behind."""

from __future__ import annotations

import os
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import ConfigError
from pipeline.store.embedded import watchdog

POLL_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class Postmaster:
    """What a server writes of itself into ``postmaster.pid``; after a crash it may be long gone."""

    pid: int
    port: int
    ready: bool


def read(data: Path) -> Postmaster | None:
    try:
        lines = (data / "postmaster.pid").read_text().splitlines()
    except FileNotFoundError:
        return None
    if len(lines) < 4:  # being written
        return None
    # Lines: pid, directory, start time, port, socket directory, address, shared memory key, state.
    return Postmaster(int(lines[0]), int(lines[3]), lines[7:] != [] and lines[7].strip() == "ready")


def end(data: Path) -> None:
    """Stop the server on ``data``, if one runs: for the owner of the lock, when no watchdog does it.

    Raises ``ConfigError`` when it cannot be stopped.
    """
    left = read(data)
    if left is None:
        return
    command = _command(left.pid)
    if f"-D {data} " not in command:
        # Empty: it ended, and PostgreSQL itself judges what it left. Else somebody else has its number now, and
        # PostgreSQL, which looks at the number alone, would refuse to start as long as that process lives.
        if command:
            (data / "postmaster.pid").unlink(missing_ok=True)
        return
    for step, seconds in watchdog.STEPS:
        with suppress(ProcessLookupError):
            os.kill(left.pid, step)
        give_up_at = time.monotonic() + seconds
        while time.monotonic() < give_up_at:
            if _command(left.pid) != command:
                return
            time.sleep(POLL_SECONDS)
    raise ConfigError(f"A PostgreSQL of an earlier run (process {left.pid}) does not stop; end it and start again.")


def _command(pid: int) -> str:
    """The command line of a process; empty when it has ended, reaped or not."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        if Path("/proc/self").exists():
            return ""
    shown = subprocess.run(
        ["/bin/ps", "-ww", "-o", "command=", "-p", str(pid)], capture_output=True, check=False, text=True
    )
    return shown.stdout.strip()

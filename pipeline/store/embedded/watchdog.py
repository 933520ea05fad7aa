"""A process that runs a server as its child and stops it when the other end of its stdin is closed.

Run by its path under ``python -I -S``, to be there at once; so it imports next to nothing.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

# PostgreSQL's fast shutdown, its immediate one, which leaves a log to replay, and the end of patience; in seconds.
STEPS = ((signal.SIGINT, 15.0), (signal.SIGQUIT, 10.0), (signal.SIGKILL, 5.0))


def main(command: list[str]) -> None:
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    threading.Thread(target=_stop_when_alone, args=(server,), daemon=True).start()
    server.wait()


def _stop_when_alone(server: subprocess.Popen[bytes]) -> None:
    os.read(0, 1)  # nobody ever writes: this returns when the owner has closed the pipe, or has died
    for step, seconds in STEPS:
        server.send_signal(step)
        try:
            server.wait(seconds)
        except subprocess.TimeoutExpired:
            continue
        return


if __name__ == "__main__":
    main(sys.argv[1:])

"""One database on disk and the server on it, for the process that holds its lock.

DATA_DIR/postgres-18/     the server's major version: another one cannot read these files
├── lock
├── password              the superuser's
├── log                   of the server that runs, or of the one that ran last
└── data/                 there once initdb has finished, never half made
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from pipeline.errors import ConfigError
from pipeline.store.embedded import postmaster, watchdog
from pipeline.store.embedded.account import ADVICE, Account, account_for

SUPERUSER = "antiphon"
HOST = "127.0.0.1"
POLL_SECONDS = 0.01
RETRY_SECONDS = 0.2
# Replaying the log after a crash takes seconds, on a slow disk a minute.
START_SECONDS = 120.0

# What the log says when a server of a moment ago is not quite gone, or somebody else took our port.
PASSING_TROUBLE = ("postmaster.pid", "shared memory block", "Address already in use")

# What PostgreSQL would choose otherwise. It shares the machine with a speech model; and it logs an error without
# the statement and the row, since both may hold what somebody said.
SERVER_SETTINGS = {
    "listen_addresses": HOST,
    "unix_socket_directories": "",  # a socket's path has 107 bytes at most, a data directory may have more
    "shared_buffers": "64MB",
    "max_connections": "100",
    "log_checkpoints": "off",
    "log_error_verbosity": "terse",
    "log_min_error_statement": "panic",
}

# Nothing of ours: the server has no use for the service's secrets. The locale keeps its log in English.
ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}


class Cluster:
    """Everything here blocks. Only ``dsn`` is for a process without the lock. ``port``: else one that is free."""

    def __init__(self, home: Path, binaries: Path, port: int | None = None) -> None:
        self.home = home
        self.log = home / "log"
        self.port = port
        self._data = home / "data"
        self._password = home / "password"
        self._binaries = binaries
        self._guard: subprocess.Popen[bytes] | None = None

    def dsn(self) -> str | None:
        """Of the server that is ready now; ``None`` when none is."""
        server = postmaster.read(self._data)
        # After a crash the file tells of a server that is no more, until the new one writes its own.
        if server is None or not server.ready or not _answers(server.port):
            return None
        return f"postgresql://{SUPERUSER}:{self._password.read_text()}@{HOST}:{server.port}/postgres"

    def runs(self) -> bool:
        """Whether the server that was started here is there still, and guarded. Does not block."""
        return self._guard is not None and self._guard.poll() is None

    def start(self, checkpoint: Callable[[], None] = lambda: None) -> None:
        """Return when the server is ready. Raises ``ConfigError`` when it does not get there.

        ``checkpoint`` is called again and again meanwhile; what it raises ends the start, and ``stop`` clears up.
        """
        self.stop()
        account = account_for(self.home, self._binaries)
        if not self._data.exists():
            self._make_database(account)
        give_up_at = time.monotonic() + START_SECONDS
        while not self._launch(account, give_up_at, checkpoint):
            said = self.log.read_text(errors="replace")
            if time.monotonic() > give_up_at or not any(trouble in said for trouble in PASSING_TROUBLE):
                raise _failed(f"PostgreSQL does not start in {self.home}", said, account)
            checkpoint()
            time.sleep(RETRY_SECONDS)

    def stop(self) -> None:
        if self._guard is not None:
            self._dismiss(self._guard)
        postmaster.end(self._data)  # there is one only where somebody killed its watchdog

    def _make_database(self, account: Account | None) -> None:
        for unfinished in self.home.glob("initdb-*"):
            shutil.rmtree(unfinished, ignore_errors=True)
        self._password.touch(0o600)
        self._password.write_text(secrets.token_urlsafe(24))
        # A new folder each time: the initdb of a process that was killed may still be writing to its own.
        with TemporaryDirectory(prefix="initdb-", dir=self.home) as scratch:
            if account:
                account.admit(self.home, owned=(self._password, Path(scratch)))
            fresh = Path(scratch, "data")
            initdb = [str(self._binaries / "initdb"), "-D", str(fresh)]
            options = ["--auth=scram-sha-256", f"--pwfile={self._password}", "--encoding=UTF8", "--locale=C"]
            made = subprocess.run(
                [*_become(account), *initdb, f"--username={SUPERUSER}", *options],
                cwd=self.home,
                env=ENVIRONMENT,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=False,
                text=True,
                start_new_session=True,
            )
            if made.returncode:
                raise _failed(f"initdb fails in {self.home}", made.stderr, account)
            fresh.rename(self._data)
            _flush(self.home)

    def _launch(self, account: Account | None, give_up_at: float, checkpoint: Callable[[], None]) -> bool:
        """One try. Whether the server is ready; else it has ended, and its log says why."""
        port = self.port or _free_port()
        server = [str(self._binaries / "postgres"), "-D", str(self._data), "-p", str(port)]
        settings = [f"--{name}={value}" for name, value in SERVER_SETTINGS.items()]
        with self.log.open("wb") as log:
            guard = self._guard = subprocess.Popen(
                [sys.executable, "-I", "-S", watchdog.__file__, *_become(account), *server, *settings],
                cwd=self.home,
                env=ENVIRONMENT,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C at a terminal is for us alone
            )
        while guard.poll() is None and time.monotonic() < give_up_at:
            found = postmaster.read(self._data)
            if found and found.ready and found.port == port and _answers(port):  # see dsn
                return True
            checkpoint()
            time.sleep(POLL_SECONDS)
        self._dismiss(guard)
        return False

    def _dismiss(self, guard: subprocess.Popen[bytes]) -> None:
        assert guard.stdin
        guard.stdin.close()
        guard.wait()
        self._guard = None


def _become(account: Account | None) -> tuple[str, ...]:
    return account.become if account else ()


def _failed(what: str, said: str, account: Account | None) -> ConfigError:
    last = (said.strip().splitlines() or ["nothing"])[-1]
    return ConfigError(f"{what}; it said: {last}" + (f" ({ADVICE})" if account else ""))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _answers(port: int) -> bool:
    try:
        with socket.create_connection((HOST, port), timeout=1):
            return True
    except OSError:
        return False


def _flush(folder: Path) -> None:
    """Make a rename in ``folder`` outlive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

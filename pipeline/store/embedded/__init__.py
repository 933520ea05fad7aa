"""A private PostgreSQL under the data directory: one process of ours owns it, others attach.

    owner ──pipe──▶ watchdog ──child──▶ postgres

The watchdog stops the server when the pipe closes, which an exit does and a ``kill -9`` does too.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from anyio import CancelScope, current_time, sleep, to_thread

from pipeline.errors import ConfigError
from pipeline.store.embedded.binaries import find_binaries, major_version
from pipeline.store.embedded.cluster import START_SECONDS, Cluster

POLL_SECONDS = 0.02


class EmbeddedPostgres:
    """The server, as an async context manager; ``dsn`` and ``owned`` are known inside of it.

    ``owned`` is true where this process started the server, and stops it: whoever attached loses it then.
    Entering raises ``ConfigError`` when there are no binaries, or when they cannot serve from ``data_dir``.
    """

    def __init__(self, data_dir: Path, binaries: Path | None = None) -> None:
        self.dsn = ""
        self.owned = False
        self._data_dir = data_dir
        self._binaries = binaries
        self._owning = ExitStack()

    async def __aenter__(self) -> Self:
        cluster = await to_thread.run_sync(self._open)
        give_up_at = current_time() + START_SECONDS
        while not await to_thread.run_sync(self._own_or_attach, cluster):
            if current_time() > give_up_at:
                raise ConfigError(
                    f"Another process owns {cluster.home} and its PostgreSQL is not ready; see {cluster.log}."
                )
            await sleep(POLL_SECONDS)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with CancelScope(shield=True):
            await to_thread.run_sync(self._owning.close)

    def _open(self) -> Cluster:
        binaries = find_binaries(self._binaries)
        home = self._data_dir.resolve() / f"postgres-{major_version(binaries)}"
        try:
            home.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"{home} cannot be made ({error.strerror}); set DATA_DIR elsewhere.") from error
        return Cluster(home, binaries)

    def _own_or_attach(self, cluster: Cluster) -> bool:
        """Whether there is a server now; else its owner is still starting, or stopping, it."""
        lock = _lock(cluster.home / "lock")
        if lock is None:
            return self._attach(cluster)
        with ExitStack() as owning:
            owning.callback(os.close, lock)
            owning.callback(cluster.stop)
            cluster.start()
            self._owning = owning.pop_all()
        self.owned = True
        return self._attach(cluster)

    def _attach(self, cluster: Cluster) -> bool:
        dsn = cluster.dsn()
        self.dsn = dsn or ""
        return dsn is not None


def _lock(path: Path) -> int | None:
    """A file that holds the lock until it is closed, at the latest by the process's end; ``None`` when it is taken."""
    try:
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except PermissionError as error:
        raise ConfigError(
            f"{path.parent} belongs to another user; run as that user, set DATA_DIR elsewhere, or set DATABASE__DSN."
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return lock

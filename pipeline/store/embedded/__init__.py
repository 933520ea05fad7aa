"""A private PostgreSQL under the data directory: one process of ours owns it, others attach.

    owner ──pipe──▶ watchdog ──child──▶ postgres

The watchdog stops the server when the pipe closes, which an exit does and a ``kill -9`` does too. The owner starts both
again when they die; when the owner dies, whoever attached takes its place.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Final, Self
from urllib.parse import urlsplit

import structlog
from anyio import CancelScope, create_task_group, current_time, from_thread, sleep, to_thread
from anyio.abc import TaskGroup

from pipeline.errors import ConfigError
from pipeline.store.embedded.binaries import find_binaries, major_version
from pipeline.store.embedded.cluster import START_SECONDS, Cluster

log = structlog.get_logger()

POLL_SECONDS = 0.02
# A look costs a system call or three; the start behind it takes as long.
WATCH_SECONDS = 0.2
# Before the next start of a server that keeps dying: at once where it was an accident, seldom where the disk is full.
PAUSES: Final = (0.0, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
# Twice the longest pause: one that lived so long does not keep dying.
STEADY_SECONDS: Final = 60.0


class EmbeddedPostgres:
    """The server, as an async context manager; ``dsn`` and ``owned`` are known inside of it.

    A server that dies comes back at the same ``dsn``. ``owned`` is true where this process starts and stops it.
    Entering raises ``ConfigError`` when there are no binaries, or when they cannot serve from ``data_dir``.
    """

    def __init__(self, data_dir: Path, binaries: Path | None = None) -> None:
        self.dsn = ""
        self.owned = False
        self._data_dir = data_dir
        self._binaries = binaries
        self._owning = ExitStack()
        self._tasks: TaskGroup | None = None

    async def __aenter__(self) -> Self:
        cluster = await to_thread.run_sync(self._open)
        try:
            await self._enter(cluster)
        except BaseException:
            await self._leave()
            raise
        self._tasks = await create_task_group().__aenter__()
        self._tasks.start_soon(self._watch, cluster)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._tasks is not None
        self._tasks.cancel_scope.cancel()
        try:
            # Not given the error: a task group would wrap it, and it is not the watch's own.
            await self._tasks.__aexit__(None, None, None)
        finally:
            await self._leave()  # the watch has ended: nobody starts what is stopped here

    async def _enter(self, cluster: Cluster) -> None:
        give_up_at = current_time() + START_SECONDS
        while not await to_thread.run_sync(self._own_or_attach, cluster):
            if current_time() > give_up_at:
                raise ConfigError(
                    f"Another process owns {cluster.home} and its PostgreSQL is not ready; see {cluster.log}."
                )
            await sleep(POLL_SECONDS)

    async def _leave(self) -> None:
        with CancelScope(shield=True):
            await to_thread.run_sync(self._owning.close)

    async def _watch(self, cluster: Cluster) -> None:
        """Start the server again when it has died; where another process owned it, once that is gone."""
        deaths, born_at = 0, current_time()
        while True:
            await sleep(WATCH_SECONDS)
            if cluster.runs() or not await to_thread.run_sync(self._own, cluster):
                continue
            if current_time() - born_at > STEADY_SECONDS:
                deaths = 0
            pause = PAUSES[min(deaths, len(PAUSES) - 1)]
            log.error("database-died", wait_seconds=pause)
            await sleep(pause)
            try:
                await to_thread.run_sync(cluster.start, from_thread.check_cancelled)
            except (ConfigError, OSError) as error:
                log.warning("database-not-started", reason=str(error))
            deaths, born_at = deaths + 1, current_time()

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
        if self._own(cluster):
            cluster.start(from_thread.check_cancelled)
        dsn = cluster.dsn()
        if dsn is None:
            return False
        self.dsn = dsn
        cluster.port = urlsplit(dsn).port  # of every later server, too: whoever knows this one looks for it there
        return True

    def _own(self, cluster: Cluster) -> bool:
        """Whether the server is ours to start and to stop; it becomes so when it is nobody's."""
        if not self.owned and (lock := _lock(cluster.home / "lock")) is not None:
            self._owning.callback(os.close, lock)
            self._owning.callback(cluster.stop)
            self.owned = True
        return self.owned


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

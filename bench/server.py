"""A PostgreSQL of a benchmark's own: fsync on, at one address however often it falls, and seen as its superuser."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import asyncpg
from anyio import CancelScope, to_thread

from pipeline.store.embedded import postmaster
from pipeline.store.embedded.binaries import find_binaries, major_version
from pipeline.store.embedded.cluster import Cluster
from pipeline.store.postgres import migrate

# Not a superuser, whom row-level security does not bind.
LOGIN = "CREATE ROLE service LOGIN CREATEROLE PASSWORD 'service'"
DATABASE = "antiphon"


class Server:
    """Entered with an empty, migrated database. ``dsn`` is the service's.

    Raises ``ConfigError`` where there are no binaries.
    """

    def __init__(self, folder: Path) -> None:
        binaries = find_binaries(None)
        home = folder.resolve() / f"postgres-{major_version(binaries)}"
        home.mkdir(mode=0o700, parents=True)
        self._data = home / "data"
        self._cluster = Cluster(home, binaries, free_port())
        self._admin: asyncpg.Connection[asyncpg.Record] | None = None
        self.dsn = ""

    async def __aenter__(self) -> Self:
        await to_thread.run_sync(self._cluster.start)
        connection = await asyncpg.connect(self._superuser("postgres"))
        for statement in (LOGIN, f"CREATE DATABASE {DATABASE} OWNER service"):
            await connection.execute(statement)
        await connection.close()
        url = urlsplit(self._superuser(DATABASE))
        self.dsn = url._replace(netloc=f"service:service@{url.hostname}:{url.port}").geturl()
        await migrate(self.dsn)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._admin is not None:
            self._admin.terminate()
        with CancelScope(shield=True):
            await to_thread.run_sync(self._cluster.stop)

    async def connected(self) -> asyncpg.Connection[asyncpg.Record]:
        """The superuser's connection; a new one where the last was lost."""
        if self._admin is None or self._admin.is_closed():
            self._admin = await asyncpg.connect(self._superuser(DATABASE))
        return self._admin

    async def fetch(self, statement: str, *values: object) -> list[asyncpg.Record]:
        return await (await self.connected()).fetch(statement, *values)

    async def count(self, statement: str, *values: object) -> int:
        """The one number that ``statement`` selects."""
        return int((await self.fetch(statement, *values))[0][0])

    async def restart(self) -> None:
        """In order, but without waiting for anybody: connections are closed, transactions rolled back."""
        await to_thread.run_sync(self._cluster.stop)
        await to_thread.run_sync(self._cluster.start)

    async def crash(self) -> None:
        """Kill -9, and recover from the log."""
        running = postmaster.read(self._data)
        assert running is not None
        os.kill(running.pid, signal.SIGKILL)
        await self.restart()

    def _superuser(self, database: str) -> str:
        dsn = self._cluster.dsn()
        if dsn is None:
            raise ConnectionError("The server of the benchmark is not there.")
        return urlsplit(dsn)._replace(path=f"/{database}").geturl()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])

"""The embedded server from outside: processes that have it, what it answers, and their numbers."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias
from urllib.parse import urlsplit

import asyncpg
import pytest

LONGEST_WAIT = 30.0

with_proc = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="looks processes up in /proc")

# A process that says whether it owns the server, and where it is, and leaves when its stdin ends.
HOLDER = """
import signal, sys
from pathlib import Path
import anyio
from pipeline.store.embedded import EmbeddedPostgres

async def main():
    async with EmbeddedPostgres(Path(sys.argv[1])) as server:
        print(server.owned, server.dsn, flush=True)
        await anyio.to_thread.run_sync(sys.stdin.read)

signal.signal(signal.SIGINT, signal.SIG_IGN)
anyio.run(main)
"""


@dataclass(frozen=True, slots=True)
class Holder:
    """A process beside us that has the server."""

    process: subprocess.Popen[str]
    owned: bool
    dsn: str

    def leave(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        assert self.process.wait(LONGEST_WAIT) == 0


Hold: TypeAlias = Callable[[], AbstractContextManager[Holder]]


@contextmanager
def holding(data_dir: Path) -> Iterator[Holder]:
    command = [sys.executable, "-c", HOLDER, str(data_dir)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout
        owned, dsn = process.stdout.readline().split()
        yield Holder(process, owned == "True", dsn)


def ask(dsn: str, question: str) -> object:
    async def answer() -> object:
        connection = await asyncpg.connect(dsn, ssl=False)
        try:
            return await connection.fetchval(question)
        finally:
            await connection.close()

    return asyncio.run(answer())


def keep_a_word(dsn: str) -> None:
    ask(dsn, "CREATE TABLE words (word text)")
    ask(dsn, "INSERT INTO words VALUES ('kept')")


def kept_word(dsn: str) -> object:
    return ask(dsn, "SELECT word FROM words")


def until(condition: Callable[[], bool]) -> None:
    give_up_at = time.monotonic() + LONGEST_WAIT
    while not condition():
        assert time.monotonic() < give_up_at, "it never came"
        time.sleep(0.02)


def serves(dsn: str) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", urlsplit(dsn).port), timeout=1):
        return True
    return False


def answers(dsn: str) -> bool:
    with suppress(OSError, asyncpg.PostgresError):
        return ask(dsn, "SELECT 1") == 1
    return False


def the_cluster(data_dir: Path) -> Path:
    [home] = data_dir.glob("postgres-*")
    return home / "data"


def postgres_pid(data_dir: Path) -> int:
    return int((the_cluster(data_dir) / "postmaster.pid").read_text().split()[0])


def process_status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def watchdog_pid(data_dir: Path) -> int:
    return int(process_status(postgres_pid(data_dir))["PPid"])


def kill(*pids: int) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGKILL)

"""Word that there may be work: an event within the process, LISTEN and NOTIFY between processes.

A notice is a hint and may be lost; whoever waits for one also polls. It is sent after the commit it tells of and never
inside it, since NOTIFY makes every commit of the server queue for one lock.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final

import anyio
import asyncpg

from pipeline.store import Unavailable
from pipeline.store.postgres.database import UNIT_SECONDS, connecting, using

CHANNEL: Final = "antiphon_work"
NOTICE_SECONDS: Final = 0.25  # at most four notices a second, however many jobs come in
RECONNECT_SECONDS: Final = 1.0


class Notices:
    """``send`` tells the other processes; ``dsn`` must lead to the server itself, a pooler forgets who listens."""

    def __init__(self, dsn: str, send: Callable[[], Awaitable[object]]) -> None:
        self._dsn = dsn
        self._send = send
        self._news = anyio.Event()
        self._untold = anyio.Event()
        self._cancels = anyio.Event()

    def ring(self) -> None:
        """There may be work: known here at once, elsewhere with the next notice."""
        self._news.set()
        self._untold.set()

    def ring_cancel(self) -> None:
        """A running job may have been cancelled or deleted."""
        self._cancels.set()

    async def wait(self, seconds: float) -> None:
        """Until there is news, which may have come before the call, or for ``seconds`` ± 20 %."""
        with anyio.move_on_after(seconds * random.uniform(0.8, 1.2)):  # noqa: S311  # spreads polls, no secret
            await self._news.wait()
            self._news = anyio.Event()

    async def tell(self) -> None:
        """Pass rings on to other processes, for ever."""
        while True:
            await self._untold.wait()
            self._untold = anyio.Event()
            with suppress(Unavailable):  # the others poll
                await self._send()
            await anyio.sleep(NOTICE_SECONDS)

    async def listen(self) -> None:
        """Hear other processes, for ever, over as many connections as it takes."""
        while True:
            with suppress(Unavailable):
                await self._listen()
            await anyio.sleep(RECONNECT_SECONDS)

    async def _listen(self) -> None:
        with connecting():
            connection = await asyncpg.connect(self._dsn, timeout=UNIT_SECONDS)
        try:
            with using(connection):
                lost = anyio.Event()
                connection.add_termination_listener(lambda _: lost.set())
                await connection.add_listener(CHANNEL, self._hear)
                self._news.set()  # for what was said while nobody listened
                await lost.wait()
        finally:
            with anyio.move_on_after(1, shield=True):
                await connection.close()

    def _hear(self, *_: Any) -> None:
        self._news.set()

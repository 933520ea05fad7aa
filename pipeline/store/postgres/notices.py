"""Word of new work and of cancels: events within the process, LISTEN and NOTIFY between processes.

A notice is a hint and may be lost; whoever waits for one also polls. It is sent after the commit it tells of and never
inside it, since NOTIFY makes every commit of the server queue for one lock.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final

import anyio
import asyncpg

from pipeline.jitter import jittered
from pipeline.store import Unavailable
from pipeline.store.postgres.database import UNIT_SECONDS, connecting, using

NOTICE_SECONDS: Final = 0.25  # at most four notices a second and channel, however many jobs come in
RECONNECT_SECONDS: Final = 1.0


class _Bell:
    """One thing to be told of: ``heard`` here, and not yet ``told`` elsewhere."""

    def __init__(self, channel: str) -> None:
        self.channel = channel
        self._heard = anyio.Event()
        self._untold = anyio.Event()

    def ring(self) -> None:
        self.hear()
        self._untold.set()

    def hear(self, *_: Any) -> None:
        self._heard.set()

    async def wait(self) -> None:
        """Until it has rung, which may have been before the call."""
        await self._heard.wait()
        self._heard = anyio.Event()

    async def tell(self, send: Callable[[str], Awaitable[object]]) -> None:
        while True:
            await self._untold.wait()
            self._untold = anyio.Event()
            with suppress(Unavailable):  # the others poll
                await send(self.channel)
            await anyio.sleep(NOTICE_SECONDS)


class Notices:
    """``send`` tells the other processes; ``dsn`` must lead to the server itself, a pooler forgets who listens."""

    def __init__(self, dsn: str, send: Callable[[str], Awaitable[object]]) -> None:
        self._dsn = dsn
        self._send = send
        self._work, self._cancels = _Bell("antiphon_work"), _Bell("antiphon_cancel")

    def ring(self) -> None:
        """There may be work: known here at once, elsewhere with the next notice."""
        self._work.ring()

    def ring_cancel(self) -> None:
        """A running job may have been cancelled or deleted."""
        self._cancels.ring()

    async def wait(self, seconds: float) -> None:
        """Until there may be work, or for ``seconds`` ± 20 %."""
        with anyio.move_on_after(jittered(seconds)):
            await self._work.wait()

    async def wait_cancel(self) -> None:
        await self._cancels.wait()

    async def tell(self) -> None:
        """Pass rings on to other processes, for ever."""
        async with anyio.create_task_group() as tasks:
            for bell in (self._work, self._cancels):
                tasks.start_soon(bell.tell, self._send)

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
                for bell in (self._work, self._cancels):
                    await connection.add_listener(bell.channel, bell.hear)
                    bell.hear()  # what was said while nobody listened
                await lost.wait()
        finally:
            with anyio.move_on_after(1, shield=True):
                await connection.close()

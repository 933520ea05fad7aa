"""Whether this process lives, and whether it should be sent work."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import anyio
from quart import Response

from pipeline.errors import EngineUnavailable
from pipeline.store import Store, Unavailable

# However many probes ask, the database is asked once a second; one that needs two seconds for a ping serves nobody.
PING_EVERY: Final = 1.0
PING_SECONDS: Final = 2.0


class Health:
    """``checks``: by name, what must hold before requests are sent here; the database is checked besides.

    ``alive``: False only when nothing but a new process can help. Both are asked on the event loop and must not block.
    """

    def __init__(
        self, store: Store, *, checks: Mapping[str, Callable[[], bool]], alive: Callable[[], bool] = lambda: True
    ) -> None:
        self._store = store
        self._checks = checks
        self._alive = alive
        self._asking = anyio.Lock()
        self._asked_at = float("-inf")
        self._database: str | None = None

    async def livez(self) -> Response:
        if not self._alive():
            raise EngineUnavailable("The engine does not answer any more.")
        return _fine()

    async def readyz(self) -> Response:
        if failing := await self.failing():
            raise EngineUnavailable(f"Not ready: {', '.join(failing)}.")
        return _fine()

    async def failing(self) -> tuple[str, ...]:
        """Names of the checks that do not hold."""
        wrong = [name for name, holds in self._checks.items() if not holds()]
        if await self.database() is None:
            wrong.append("database")
        return tuple(wrong)

    async def database(self) -> str | None:
        """Its name and version, or ``None`` while it cannot be reached."""
        async with self._asking:
            if anyio.current_time() - self._asked_at >= PING_EVERY:
                self._database = await self._ping()
                self._asked_at = anyio.current_time()
            return self._database

    async def _ping(self) -> str | None:
        try:
            with anyio.fail_after(PING_SECONDS):
                return await self._store.ping()
        except (Unavailable, TimeoutError):
            return None


def _fine() -> Response:
    return Response('{"status":"ok"}', content_type="application/json")

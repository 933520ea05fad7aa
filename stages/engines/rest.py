"""What an engine does while nobody asks it: it gives freed memory back, and later its model, until it is wanted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Final

import anyio
import structlog
from anyio import current_time, move_on_after, to_thread

from stages.engines import Engine
from stages.engines.allocator import give_back_freed_memory

log = structlog.get_logger()

QUIET_SECONDS: Final = 5.0
"""Nobody has asked for so long: freed memory is given back. The windows of a job come closer one after another."""


class Rest:
    """The engine may be run while the model is ``loaded`` and somebody holds it ``awake``.

    ``unload_seconds``: how long nobody holds it until the model leaves; 0: it never does.
    """

    def __init__(self, engine: Engine, unload_seconds: float) -> None:
        self.loaded_since: datetime | None = datetime.now(UTC)
        self._engine, self._unload_seconds = engine, unload_seconds
        self._awake = 0
        self._moving_since: float | None = None
        self._quiet, self._stirred = anyio.Event(), anyio.Event()
        self._quiet.set()

    @property
    def loaded(self) -> bool:
        return self.loaded_since is not None

    def moving(self) -> float:
        """Seconds for which the model has been leaving or coming back; 0 while it does neither."""
        return 0.0 if self._moving_since is None else current_time() - self._moving_since

    async def keep(self, on_return: Callable[[], None]) -> None:
        """Until cancelled. ``on_return`` is called when the model is back. Raises ``EngineLost`` when it cannot be."""
        async with anyio.create_task_group() as group:
            group.start_soon(self._give_memory_back)
            if self._unload_seconds:
                group.start_soon(self._unload, on_return)

    @contextmanager
    def awake(self) -> Iterator[None]:
        """It is wanted meanwhile: by a window that waits, or by a batch that runs, though nobody waits for it."""
        self._awake += 1
        if self._awake == 1:
            self._stirred.set()
            self._quiet = anyio.Event()
        try:
            yield
        finally:
            self._awake -= 1
            if not self._awake:
                self._quiet.set()
                self._stirred = anyio.Event()

    async def _give_memory_back(self) -> None:
        while True:
            await self._quiet_for(QUIET_SECONDS)
            await to_thread.run_sync(give_back_freed_memory)
            await self._stirred.wait()

    async def _unload(self, on_return: Callable[[], None]) -> None:
        while True:
            if self.loaded:  # it is not where a room was closed without its model
                await self._quiet_for(self._unload_seconds)
                self.loaded_since = None
                await self._move(self._engine.unload)
                await to_thread.run_sync(give_back_freed_memory)
                log.info("engine-unloaded")
            await self._stirred.wait()
            await self._move(self._engine.reload)
            self.loaded_since = datetime.now(UTC)
            log.info("engine-reloaded")
            on_return()

    async def _move(self, model: Callable[[], None]) -> None:
        self._moving_since = current_time()
        try:
            await to_thread.run_sync(model)
        finally:
            self._moving_since = None

    async def _quiet_for(self, seconds: float) -> None:
        """Return as soon as nobody has held it for so long."""
        while True:
            await self._quiet.wait()
            with move_on_after(seconds):
                await self._stirred.wait()
            if not self._stirred.is_set():
                return

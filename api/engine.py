"""The engine and what surrounds it, right now: ``/v1/engine``. It tells how much is done, and never for whom."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Literal

from anyio import to_thread
from pydantic import Field
from quart import Response

from api.health import Health
from api.schemas import View


class CapabilitiesView(View):
    """What the loaded model can do; a request for anything else is refused with ``capability-unsupported``."""

    languages: tuple[str, ...]
    words: bool = Field(description="Whether it gives times of words.")
    translate: bool = Field(description="Whether it translates, which is always into English.")
    prompt: bool = Field(description="Whether it takes a prompt.")
    batch: int = Field(description="Windows that it takes at once.")
    lanes: int = Field(description="Batches that run beside one another.")
    cancellable: bool = Field(description="Whether a running batch ends when nobody waits for it any more.")


class RoomView(View):
    """Over all tenants, since this replica began. A window is up to 30 s of speech."""

    ready: int = Field(description="Windows that wait for a lane.")
    outside: int = Field(description="Windows that wait for room to wait in.")
    batches: int
    windows: int
    busy_seconds: float = Field(description="Summed over lanes.")


class StageView(View):
    stage: str
    waiting: int = Field(description="Items before it.")
    active: int = Field(description="Hands at work.")
    workers: int = Field(description="Hands there are.")


class MemoryView(View):
    """Resident bytes; ``null`` where the system does not tell."""

    process_bytes: int | None
    lanes_bytes: int | None = Field(description="Of the child processes of an isolated engine, together.")


class DatabaseView(View):
    reachable: bool
    version: str | None


class EngineState(View):
    """What can be told at once."""

    backend: str
    model: str
    device: str
    compute_type: str
    library_version: str
    isolation: Literal["thread", "process"]
    capabilities: CapabilitiesView
    loaded_since: datetime | None = Field(description="null while the model is out of memory, until work comes.")
    room: RoomView
    stages: tuple[StageView, ...]
    version: str = Field(description="Antiphon's own.")


class EngineView(EngineState):
    """The engine of the replica that answers, and all that surrounds it."""

    memory: MemoryView
    database: DatabaseView


class EngineDesk:
    def __init__(self, look: Callable[[], EngineState], health: Health) -> None:
        self._look, self._health = look, health

    async def read_engine(self) -> Response:
        database = await self._health.database()
        view = EngineView(
            **dict(self._look()),
            memory=await to_thread.run_sync(_memory),
            database=DatabaseView(reachable=database is not None, version=database),
        )
        return Response(view.model_dump_json(), content_type="application/json")


def _memory() -> MemoryView:
    """Shared pages count in each process that has them. The embedded database is no part of it."""
    lanes = [resident_bytes(child.pid) for child in multiprocessing.active_children()]
    told = [size for size in lanes if size is not None]
    return MemoryView(process_bytes=resident_bytes(os.getpid()), lanes_bytes=sum(told) if told == lanes else None)


def resident_bytes(process: int | None) -> int | None:
    """By Linux' own account; other systems have no such file, and neither has a process that is gone."""
    try:
        _, resident, *_ = Path(f"/proc/{process}/statm").read_text().split()
    except OSError:
        return None
    return int(resident) * os.sysconf("SC_PAGE_SIZE")

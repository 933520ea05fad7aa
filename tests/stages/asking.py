"""Who asks the room in tests, for what, and an engine that tells what it was given."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, Final, Literal
from uuid import UUID

import anyio
import numpy as np

from pipeline.jobs import Tenant
from stages.engines import CancelFlag, Draft, Options, Window, WindowError
from stages.engines.mock import Fault, MockEngine, Prepared, Script
from stages.engines.room import Asker, ModelRoom
from tests.stages.waiting import until

ACME: Final = Asker(Tenant("acme"), UUID(int=1), "0:0")


def asker(tenant: str, job: int = 1, *, weight: float = 1.0) -> Asker:
    return Asker(Tenant(tenant), UUID(int=job), "0:0", weight=weight)


LINES = tuple(f"Line {n}." for n in range(1000))
KINDS: tuple[Literal["window", "batch", "lost", "hang"], ...] = ("window", "batch", "lost", "hang")
FAULTS = (Fault(mark="once", kind="batch", times=1), *(Fault(mark=kind, kind=kind) for kind in KINDS))


class Watched(MockEngine):
    """Keeps the batches it was given and their flags, and while ``gate`` is shut is busy with the one at hand."""

    def __init__(self, **script: Any) -> None:
        super().__init__(Script(lines=LINES, faults=FAULTS, **script))
        self.gate = threading.Event()
        self.gate.set()
        self.batches: list[list[Prepared]] = []
        self.flags: list[CancelFlag] = []
        self.prepared = self.answered = self.most_inside = 0

    def prepare(self, window: Window) -> Prepared:
        self.prepared += 1
        self.most_inside = max(self.most_inside, self.prepared - self.answered)
        return super().prepare(window)

    def run(self, batch: Sequence[Prepared], cancel: CancelFlag) -> Sequence[Draft | WindowError]:
        self.batches.append([*batch])
        self.flags.append(cancel)
        self.gate.wait(30)
        return super().run(batch, cancel)

    @property
    def sizes(self) -> list[int]:
        return [len(batch) for batch in self.batches]


def room_of(engine: MockEngine, *, memory_limit: int = 2**30, idle_unload_seconds: float = 0.0) -> ModelRoom:
    return ModelRoom(
        engine, memory_limit=memory_limit, jobs=2, tracks_per_job=4, idle_unload_seconds=idle_unload_seconds
    )


def window(n: int = 0, **options: Any) -> Window:
    """A second of a tone of its own."""
    return Window(np.sin(np.arange(16_000) * (0.1 + n / 500)).astype(np.float32), Options(**options))


class Crowd:
    """Windows asked for at once; ``answers`` by the place of each."""

    def __init__(self, room: ModelRoom, engine: Watched) -> None:
        self.room, self.engine = room, engine
        self.answers: dict[int, Draft | WindowError] = {}

    async def ask(self, place: int, asked: Window) -> None:
        self.answers[place] = await self.room.ask(asked, ACME)
        self.engine.answered += 1

    async def behind_a_shut_gate(self, windows: Sequence[Window]) -> None:
        """The first window is in the engine while the others arrive, in their order; then the gate is opened."""
        self.engine.gate.clear()
        given = sum(self.engine.sizes)
        async with anyio.create_task_group() as group:
            for place, asked in enumerate(windows):
                group.start_soon(self.ask, place, asked)
                # the others wait, as long as the gate is shut
                await until(lambda: (sum(self.engine.sizes) - given, self.room.statistics().ready) == (1, place))  # noqa: B023  # awaited here
            self.engine.gate.set()


async def heard_behind_a_gate(engine: Watched, windows: Sequence[Window]) -> list[Draft | WindowError]:
    room = room_of(engine)
    async with room.open():
        crowd = Crowd(room, engine)
        await crowd.behind_a_shut_gate(windows)
    return [crowd.answers[place] for place in range(len(windows))]

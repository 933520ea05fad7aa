"""One tenant fills a replica with long recordings; the short one of another is claimed all the same, and heard next."""

from __future__ import annotations

import io
import threading
import wave
from collections.abc import Sequence
from pathlib import Path

import anyio

from pipeline.jobs import JobRequest
from stages.engines import CancelFlag, Draft, Window, WindowError
from stages.engines.mock import MockEngine, Prepared, Script
from tests.conformance.store_suite.making import ACME, GLOBEX, upload
from tests.stages.gates import standing
from tests.stages.replica import Service
from tests.stages.transcribing import Samples
from tests.stages.waiting import until

LONG_JOBS = 20
WITHIN = 2  # batches, the one that runs when the newcomer arrives not counted


class Gated(MockEngine):
    """Is busy with its first batch until the gate is opened. Knows a window by its prompt."""

    def __init__(self) -> None:
        super().__init__(Script(max_batch=4))
        self.gate = threading.Event()
        self.prepared: set[str | None] = set()
        self.batches: list[set[str | None]] = []

    def prepare(self, window: Window) -> Prepared:
        self.prepared.add(window.options.prompt)
        return super().prepare(window)

    def run(self, batch: Sequence[Prepared], cancel: CancelFlag) -> Sequence[Draft | WindowError]:
        self.batches.append({item.options.prompt for item in batch})
        self.gate.wait(30)
        return super().run(batch, cancel)


def recording(sound: Samples) -> bytes:
    written = io.BytesIO()
    with wave.open(written, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(sound.tobytes())
    return written.getvalue()


async def test_a_newcomer_is_heard_within_two_batches(tmp_path: Path, sonnets: Samples, quilter: Samples) -> None:
    engine = Gated()
    service = Service(tmp_path, jobs_in_flight=LONG_JOBS, engine=engine)
    acme, globex = service.store.tenant(ACME), service.store.tenant(GLOBEX)
    long = recording(sonnets)
    for _ in range(LONG_JOBS + 5):
        await acme.submit(JobRequest(prompt="long", language="en"), uploads=[await upload(service.store, long)])
    async with service.at_work():
        room = service.room
        await until(lambda: bool(engine.batches) and room.statistics().ready + room.statistics().outside >= LONG_JOBS)
        assert await standing(service.store, ACME) == (5, LONG_JOBS)  # every credit is taken
        file = await upload(service.store, recording(quilter), tenant=GLOBEX)
        await globex.submit(JobRequest(prompt="short"), uploads=[file])
        await until(lambda: "short" in engine.prepared)
        await anyio.wait_all_tasks_blocked()
        before = len(engine.batches)
        engine.gate.set()
        await until(lambda: any("short" in prompts for prompts in engine.batches))
        service.chain.stop()
    first = next(n for n, prompts in enumerate(engine.batches) if "short" in prompts)
    assert first < before + WITHIN

"""How many jobs a second one process moves when there is next to nothing to do: the whole chain, and its two ends."""

from __future__ import annotations

import io
import wave
from pathlib import Path
from time import perf_counter
from typing import Final

import anyio
from anyio import to_thread

from api.service import new_room
from bench.backlog import REQUEST
from bench.clips import RATE, decoded
from bench.made import TRANSCRIPT
from bench.sides import Count, insist
from pipeline.chain import Chain
from pipeline.claim import Claim
from pipeline.jobs import JobRequest, Tenant
from pipeline.settings import Settings
from pipeline.stage import Map
from pipeline.store import Store
from pipeline.transcript import Transcript
from stages import chain
from stages.claimer import Claimer
from stages.committer import Committer
from stages.engines.mock import MockEngine

TENANTS: Final = tuple(Tenant(f"short-{n}") for n in range(8))
IN_FLIGHT: Final = 16
SECONDS: Final = 1.0  # of speech: one window


class Said(Map[JobRequest, Transcript]):
    async def handle(self, claim: Claim, item: JobRequest) -> Transcript:  # noqa: ARG002 (a Map's)
        return TRANSCRIPT


async def whole(store: Store, folder: Path, jobs: int) -> float:
    """Jobs a second from uploaded files to transcripts."""
    recording = await to_thread.run_sync(_recording)
    for n in range(jobs):
        door = store.tenant(TENANTS[n % len(TENANTS)])
        async with door.upload() as file:
            await file.write(recording)
        await door.submit(JobRequest(), uploads=[file.id])
    settings, count = _settings(folder), Count(jobs)
    line = chain(store.queue(), new_room(MockEngine(), settings), settings, count)
    return jobs / await _moved(line, count)


async def ends(store: Store, folder: Path, jobs: int) -> float:
    """Jobs a second of claimer and committer alone; each transcript has 8 kB."""
    for n in range(jobs):
        await store.tenant(TENANTS[n % len(TENANTS)]).submit(REQUEST)
    settings, count, queue = _settings(folder), Count(jobs), store.queue()
    line = (
        Chain(Claimer(queue, settings.queue, folder / "scratch"), observe=count)
        .then(Said(), workers=IN_FLIGHT)
        .sink(Committer(queue, settings.queue), workers=2)
    )
    return jobs / await _moved(line, count)


async def _moved(line: Chain[Transcript], count: Count) -> float:
    """Seconds until all of them have ended. Raises ``Unmeasured`` where one did not complete."""
    began = perf_counter()
    async with anyio.create_task_group() as group:
        group.start_soon(line.run)
        await count.all_ended.wait()
        wall = perf_counter() - began
        line.drain()
    insist(count.failed)
    return wall


def _settings(folder: Path) -> Settings:
    asked = Settings()
    queue = asked.queue.model_copy(update={"jobs_in_flight": IN_FLIGHT})
    audio = asked.audio.model_copy(update={"max_tracks": 1})
    return asked.model_copy(update={"data_dir": folder, "queue": queue, "audio": audio})


def _recording() -> bytes:
    """The beginning of a real one, as 16-bit WAV."""
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setparams((1, 2, RATE, 0, "NONE", ""))
        writer.writeframes((decoded("austen_0880.flac")[: round(SECONDS * RATE)] * 32_767).astype("<i2").tobytes())
    return file.getvalue()

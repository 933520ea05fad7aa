"""What the whole chain, with whatever engine, makes of files: uploaded, transcribed, and read from the store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anyio

from pipeline.claim import Claim
from pipeline.jobs import Job, JobRequest
from pipeline.observer import Ending, Observer
from pipeline.settings import QueueSettings, Settings
from pipeline.store.memory import MemoryStore
from pipeline.transcript import Segment, Track, Transcript, Word
from stages import chain
from stages.engines import Engine
from stages.engines.room import ModelRoom
from tests.conformance.store_suite.making import ACME, upload


@dataclass(frozen=True, slots=True)
class Order:
    """Files of one job, and what is asked of them beside word times."""

    files: tuple[Path, ...]
    request: JobRequest


def order(*files: Path, **request: Any) -> Order:
    return Order(files, JobRequest.model_validate({"word_timestamps": True, **request}))


@dataclass(frozen=True, slots=True)
class Heard:
    """A job that has ended. ``windows``: how many the engine was asked for by it and the jobs beside it."""

    job: Job
    transcript: Transcript
    windows: int

    def track(self, name: str) -> Track:
        return next(track for track in self.transcript.tracks if track.id == name)

    def segments(self, track: str) -> list[Segment]:
        return [segment for segment in self.transcript.segments if segment.track == track]

    def words(self, track: str) -> list[Word]:
        return [word for segment in self.segments(track) for word in segment.words or ()]

    def statuses(self) -> dict[str, str]:
        return {track.id: track.status for track in self.transcript.tracks}

    def warnings(self) -> list[tuple[str, str | None]]:
        return [(notice.code, notice.track) for notice in self.transcript.warnings]


class _Ends(Observer):
    """Sets ``all`` when so many jobs have ended, and keeps why some of them failed."""

    def __init__(self, jobs: int) -> None:
        self._open, self.all = jobs, anyio.Event()
        self.errors: list[Exception] = []

    def ended(self, claim: Claim, ending: Ending, error: Exception | None) -> None:
        self.errors += [error] if error else []
        self._open -= 1
        if not self._open:
            self.all.set()


def listen(engine: Engine, *orders: Order) -> list[Heard]:
    """All at once through the running chain of a replica of their own. Raises what any of them failed with."""
    with TemporaryDirectory() as folder:
        return anyio.run(_listen, engine, orders, Path(folder))


async def _listen(engine: Engine, orders: Sequence[Order], folder: Path) -> list[Heard]:
    store, ends = MemoryStore(settings=QueueSettings(max_attempts=1)), _Ends(len(orders))
    room = ModelRoom(engine, memory_limit=2**30, jobs=len(orders), tracks_per_job=8)
    line = chain(store.queue(), room, Settings(data_dir=folder), ends)
    jobs = [await _submit(store, order) for order in orders]
    async with anyio.create_task_group() as group:
        await group.start(line.run)
        await ends.all.wait()
        line.drain()
    if ends.errors:
        raise ExceptionGroup("Not every job completed", ends.errors)
    return [await _heard(store, job, room.statistics().windows) for job in jobs]


async def _submit(store: MemoryStore, order: Order) -> Job:
    uploads = [await upload(store, await anyio.Path(file).read_bytes()) for file in order.files]
    return await store.tenant(ACME).submit(order.request, uploads=uploads)


async def _heard(store: MemoryStore, job: Job, windows: int) -> Heard:
    ended, transcript = await store.tenant(ACME).get(job.id), await store.tenant(ACME).transcript(job.id)
    assert transcript is not None  # it completed
    return Heard(ended, transcript, windows)

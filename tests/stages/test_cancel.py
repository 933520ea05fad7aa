"""A cancelled job stops where it is: within a window, in every stage, and with nothing left of it."""

from __future__ import annotations

import io
import wave
from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path

import anyio
import numpy as np
import pytest

from pipeline.claim import Claim
from pipeline.jobs import Job, JobRequest, JobStatus, Usage
from pipeline.observer import Ending
from pipeline.store.memory import MemoryJobQueue
from pipeline.transcript import Transcript
from stages.engines import CancelFlag, Draft, WindowError
from stages.engines.mock import MockEngine, Prepared, Script
from tests.conformance.store_suite.making import ACME, submit, upload
from tests.stages.replica import Service
from tests.stages.waiting import until
from tests.stages.web import Web, answer, dripping, serving

BODY = b"HTTP/1.1 200 -\r\nContent-Type: audio/flac\r\n\r\n"


@pytest.fixture
async def web(media: Path) -> AsyncGenerator[Web, None]:
    async with serving() as web:
        web.answers["/jfk.flac"] = answer(await anyio.Path(media / "jfk.flac").read_bytes())
        web.answers["/drips.flac"] = dripping(BODY, bytes(1024))
        yield web


def meeting(seconds: int, rate: int = 8000) -> bytes:
    """A WAV file with something of its own on each of two channels."""
    written = io.BytesIO()
    with wave.open(written, "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(1)
        file.setframerate(rate)
        file.writeframes(np.random.default_rng(1).integers(0, 255, 2 * rate * seconds, np.uint8).tobytes())
    return written.getvalue()


class Stuck(MockEngine):
    """Answers so many windows, and is busy with the next until it is told to stop."""

    def __init__(self, *, answers: int = 0) -> None:
        super().__init__(Script(max_batch=1))
        self.answers, self.busy = answers, False

    def run(self, batch: Sequence[Prepared], cancel: CancelFlag) -> Sequence[Draft | WindowError]:
        self.answers -= 1
        self.busy = self.answers < 0
        if self.busy:
            cancel.wait()
        return super().run(batch, cancel)


async def cancelled(service: Service, job: Job, reached: Callable[[], bool]) -> None:
    """Once it has ``reached`` its place it is cancelled, and ends as that without a beat's being due."""
    await until(reached)
    with anyio.fail_after(10):  # a beat would come after 15 s
        await service.store.tenant(ACME).cancel(job.id)
        await until(lambda: len(service.ledger.endings) == 1)
    assert (await service.now(job)).status is JobStatus.CANCELLED
    assert await service.store.tenant(ACME).transcript(job.id) is None


async def test_while_a_slow_server_sends_it(web: Web, tmp_path: Path) -> None:
    service = Service(tmp_path)
    job = await submit(service.store, media_url=web.url("/drips.flac"))
    async with service.at_work():
        await cancelled(service, job, lambda: any(path.stat().st_size for path in tmp_path.rglob("media-0")))
    assert service.left() == []


async def test_while_it_is_decoded(tmp_path: Path) -> None:
    service = Service(tmp_path)
    file = await upload(service.store, meeting(20 * 60))
    job = await service.store.tenant(ACME).submit(JobRequest(processing_mode="multitrack"), uploads=[file])
    async with service.at_work():
        await cancelled(service, job, lambda: any(path.stat().st_size for path in tmp_path.rglob("*.pcm")))
        assert service.hands()["transcriber"] == 0
    assert service.left() == []


async def test_while_the_room_is_busy_with_another(web: Web, tmp_path: Path) -> None:
    engine = Stuck()
    service = Service(tmp_path, engine=engine)
    other = await submit(service.store, media_url=web.url("/jfk.flac"))
    async with service.at_work():
        await until(lambda: engine.busy)
        job = await submit(service.store, media_url=web.url("/jfk.flac"))
        await cancelled(service, job, lambda: service.room.statistics().ready == 1)
        assert service.room.statistics().ready == 0
        await service.store.tenant(ACME).cancel(other.id)
        await until(lambda: len(service.ledger.endings) == 2)
    assert service.left() == []


async def test_while_it_is_in_a_batch(web: Web, tmp_path: Path) -> None:
    engine = Stuck()
    service = Service(tmp_path, engine=engine)
    job = await submit(service.store, media_url=web.url("/jfk.flac"))
    async with service.at_work():
        await cancelled(service, job, lambda: engine.busy)
    assert service.left() == []


async def test_while_one_of_its_tracks_waits_for_the_others(media: Path, tmp_path: Path) -> None:
    service = Service(tmp_path, engine=Stuck(answers=1))
    clips = [await anyio.Path(media / name).read_bytes() for name in ("jfk.flac", "leopard_de.flac")]
    request = JobRequest(processing_mode="multitrack", crosstalk="off")
    uploads = [await upload(service.store, clip) for clip in clips]
    job = await service.store.tenant(ACME).submit(request, uploads=uploads)
    async with service.at_work():
        await cancelled(service, job, lambda: any(turn.stage == "interleaver" for turn in service.ledger.turns))
    assert service.left() == []


async def test_while_it_is_committed(web: Web, tmp_path: Path) -> None:
    begun, may_go_on = anyio.Event(), anyio.Event()

    class SlowToCommit(MemoryJobQueue):
        async def commit(self, claim: Claim, transcript: Transcript, usage: Usage) -> None:
            begun.set()
            await may_go_on.wait()
            await super().commit(claim, transcript, usage)

    service = Service(tmp_path, queue=SlowToCommit)
    job = await submit(service.store, media_url=web.url("/jfk.flac"))
    async with service.at_work():
        await begun.wait()
        await service.store.tenant(ACME).cancel(job.id)
        may_go_on.set()
        await until(lambda: len(service.ledger.endings) == 1)
    assert (await service.now(job)).status is JobStatus.CANCELLED
    assert await service.store.tenant(ACME).transcript(job.id) is None
    assert [*service.ledger.endings.values()] == [[Ending.RESULT]]

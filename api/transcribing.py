"""``antiphon transcribe``: one recording in, its transcript on standard output."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import anyio
from tqdm import tqdm

from api.client import Client, Refused, answers
from api.security import issue_token
from api.service import Service, end_on_signals, new_room, opened_engine
from api.transcripts import FORMS
from pipeline.jobs import JobRequest, JobStatus, Progress, Tenant
from pipeline.observer import Observer
from pipeline.settings import Settings
from pipeline.store.memory import MemoryStore
from stages import chain
from stages.scratch import remove

TENANT: Final = Tenant("local")
TOKEN_SECONDS: Final = 24 * 3600
UPLOAD_BYTES: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Order:
    """What to transcribe, and how to show it. ``file`` is None where ``request`` has a URL."""

    request: JobRequest
    file: Path | None
    form: str


async def transcribe(settings: Settings, order: Order) -> str:
    """Through the service that answers at the configured address, or through one of our own for as long as it takes.

    Raises ``Refused`` when there is no transcript to show.
    """
    token = issue_token(settings.auth, TENANT, seconds=TOKEN_SECONDS)
    async with _a_service(settings) as address, Client.connected(address, token) as client:
        job_id = await client.submit(order.request, order.file)
        with _bar() as tell:
            await client.follow(job_id, tell)
        return await client.transcript(job_id, order.form)
    raise KeyboardInterrupt  # our own service was interrupted, and took the block above along


async def transcribe_once(settings: Settings, order: Order) -> str:
    """The same stages as one straight call: no server, no database, nothing beside anything else."""
    store = MemoryStore()
    jobs, queue = store.tenant(TENANT), store.queue()
    uploads = []
    if order.file is not None:
        async with jobs.upload() as upload, await anyio.open_file(order.file, "rb") as file:
            while chunk := await file.read(UPLOAD_BYTES):
                await upload.write(chunk)
        uploads.append(upload.id)
    job = await jobs.submit(order.request, uploads=uploads)
    claim = await queue.claim(replica="once", lease_seconds=float("inf"))
    assert claim is not None  # submitted above
    claim.scratch = settings.data_dir / "scratch" / f"once-{job.id}"
    claim.resources.push_async_callback(remove, claim.scratch)
    async with opened_engine(settings) as engine:
        await chain(queue, new_room(engine, settings), settings, Observer()).once(claim, order.request)
    ended = await jobs.get(job.id)
    transcript = await jobs.transcript(job.id)
    if transcript is None:
        problem = ended.error or ended.last_error
        raise Refused(f"{problem.title}: {problem.detail}" if problem else f"The job was {ended.status}.")
    assert ended.status is JobStatus.COMPLETED
    return FORMS[order.form].render(transcript)


@asynccontextmanager
async def _a_service(settings: Settings) -> AsyncIterator[str]:
    address = f"http://{settings.http.host}:{settings.http.port}"
    if await answers(address):
        yield address
        return
    # At a port of its own: whatever has the configured one is not ours.
    http = settings.http.model_copy(update={"host": "127.0.0.1", "port": 0})
    service = Service(settings.model_copy(update={"http": http}))
    async with anyio.create_task_group() as group:
        group.start_soon(end_on_signals, partial(_interrupt, service, group.cancel_scope))
        address = await group.start(service.run)
        try:
            yield address
        finally:
            service.end()
            service.end()  # at once: what an earlier run left in the queue is not waited for
            await service.ended.wait()
            group.cancel_scope.cancel()


def _interrupt(service: Service, scope: anyio.CancelScope) -> None:
    service.end()
    scope.cancel()


@contextmanager
def _bar() -> Iterator[Callable[[Progress], None]]:
    """A progress bar on standard error, if that is a terminal."""
    with tqdm(
        total=100,
        disable=not sys.stderr.isatty(),
        leave=False,
        bar_format="{desc:<13}{bar} {percentage:3.0f}% {elapsed}",
    ) as bar:

        def tell(progress: Progress) -> None:
            bar.set_description_str(progress.stage, refresh=False)
            bar.update(progress.fraction * 100 - bar.n)

        yield tell

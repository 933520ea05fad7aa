"""``antiphon transcribe``: a recording in, its transcript out, and what to know of it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from uuid import UUID, uuid4

import anyio
import httpx2
from tqdm import tqdm

from api.client import Client, Refused, Trouble, answers
from api.order import Order
from api.security import issue_token
from api.service import Service, end_on_signals, new_room, reached_at
from api.transcripts import FORMS
from pipeline.jobs import Progress, Tenant
from pipeline.observer import Observer
from pipeline.settings import Settings
from pipeline.store import TenantJobs
from pipeline.store.memory import MemoryStore
from pipeline.transcript import Notice
from stages import chain
from stages.engines import Engine, load
from stages.scratch import scratch

TENANT: Final = Tenant("local")
TOKEN_SECONDS: Final = 24 * 3600
UPLOAD_BYTES: Final = 1024 * 1024
DELETE_SECONDS: Final = 5.0  # as long as somebody who has pressed Ctrl-C waits without pressing it again


@dataclass(frozen=True, slots=True)
class Delivery:
    """A transcript in the form that was ordered, and the warnings that travel with it."""

    text: str
    warnings: tuple[Notice, ...]


def transcribe(settings: Settings, order: Order, *, once: bool) -> Delivery:
    """``once``: by ``Chain.once``, with no server and no database.

    Else through the service that answers at the configured address, or through one of our own for as long as it takes.
    Raises ``Refused`` when there is no transcript to show.
    """
    address = reached_at(settings.http.host, settings.http.port)
    if not once and anyio.run(answers, address):
        return anyio.run(_at, address, settings, order)
    # Loaded before there is an event loop, whose Ctrl-C would wait for a download in a thread.
    with closing(load(settings.engine)) as engine:
        return anyio.run(_once if once else _alone, engine, settings, order)


async def _at(address: str, settings: Settings, order: Order) -> Delivery:
    token = issue_token(settings.auth, TENANT, seconds=TOKEN_SECONDS)
    try:
        async with Client.connected(address, token) as client:
            key, job_id = str(uuid4()), None
            try:
                job_id = await client.submit(order.request, order.files, key)
                return await _followed(client, job_id, order.form)
            except anyio.get_cancelled_exc_class():  # Ctrl-C: nobody wants it any more
                with anyio.move_on_after(DELETE_SECONDS, shield=True), suppress(Refused, httpx2.HTTPError):
                    # without an answer there may be a job all the same: the key tells which
                    await client.delete(job_id or await client.submit(order.request, order.files, key))
                raise
    except httpx2.HTTPError as error:
        raise Refused(f"The service at {address} went away ({type(error).__name__}); see its log.") from error


async def _followed(client: Client, job_id: str, form: str) -> Delivery:
    with _bar() as tell:
        warnings = await client.follow(job_id, tell)
    return Delivery(await client.transcript(job_id, form), warnings)


async def _alone(engine: Engine, settings: Settings, order: Order) -> Delivery:
    # At a port of its own: whatever has the configured one is not ours.
    http = settings.http.model_copy(update={"host": "127.0.0.1", "port": 0})
    service = Service(settings.model_copy(update={"http": http}), engine)
    async with anyio.create_task_group() as group:
        with anyio.CancelScope() as wanted:
            group.start_soon(end_on_signals, wanted.cancel)
            address = await group.start(service.run)
            try:
                return await _at(address, settings, order)
            finally:
                service.end()
                service.end()  # at once: what an earlier run left in the queue is not waited for
                with anyio.CancelScope(shield=True):
                    await service.ended.wait()
                group.cancel_scope.cancel()
        group.cancel_scope.cancel()
    raise KeyboardInterrupt  # a signal came


async def _once(engine: Engine, settings: Settings, order: Order) -> Delivery:
    store = MemoryStore()
    jobs, queue = store.tenant(TENANT), store.queue()
    uploads = [await _stored(jobs, file) for file in order.files]
    job = await jobs.submit(order.request, uploads=uploads)
    claim = await queue.claim(replica="once", lease_seconds=float("inf"))
    assert claim is not None  # submitted above
    async with scratch(settings.data_dir / "scratch") as folder:
        claim.scratch = folder / str(job.id)
        await chain(queue, new_room(engine, settings), settings, Observer()).once(claim, order.request)
    if transcript := await jobs.transcript(job.id):
        return Delivery(FORMS[order.form].render(transcript), transcript.warnings)
    ended = await jobs.get(job.id)
    problem = ended.error or ended.last_error
    assert problem is not None  # neither completed nor failed would be a bug of the chain's
    raise Refused(str(Trouble(title=problem.title, detail=problem.detail)))


async def _stored(jobs: TenantJobs, file: Path) -> UUID:
    async with jobs.upload() as upload, await anyio.open_file(file, "rb") as opened:
        while chunk := await opened.read(UPLOAD_BYTES):
            await upload.write(chunk)
        return upload.id


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

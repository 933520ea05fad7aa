"""Uploaded files in memory, on their way in and on their way to the worker."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID, uuid4

from anyio.lowlevel import checkpoint

from pipeline.claim import Claim
from pipeline.jobs import Tenant
from pipeline.store import Fenced
from pipeline.store.memory.rows import File
from pipeline.store.memory.tables import Tables
from pipeline.store.rules import CHUNK_BYTES


class MemoryUpload:
    def __init__(self, tables: Tables, upload: UUID, file: File) -> None:
        self._tables, self._id, self._file = tables, upload, file

    @property
    def id(self) -> UUID:
        return self._id

    async def write(self, chunk: bytes) -> None:
        await checkpoint()
        self._file.touched = self._tables.now()
        self._file.chunks += (bytes(chunk[at : at + CHUNK_BYTES]) for at in range(0, len(chunk), CHUNK_BYTES))


@asynccontextmanager
async def receive(tables: Tables, tenant: Tenant) -> AsyncGenerator[MemoryUpload, None]:
    await checkpoint()
    upload, file = uuid4(), File(tenant, tables.now())
    tables.files[upload] = file
    try:
        yield MemoryUpload(tables, upload, file)
    except BaseException:
        tables.forget([upload])
        raise
    file.received = True


async def send(tables: Tables, claim: Claim, upload: UUID) -> AsyncIterator[bytes]:
    number = 0
    while True:
        await checkpoint()
        file = tables.files.get(upload)
        if file is None or file.job != claim.job.id:
            raise Fenced
        if number == len(file.chunks):
            return
        yield file.chunks[number]
        number += 1

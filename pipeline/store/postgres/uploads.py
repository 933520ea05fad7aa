"""Uploaded files as rows of at most ``CHUNK_BYTES``: in and out without ever being whole in memory."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import Any, Final
from uuid import UUID, uuid4

import anyio

from pipeline.claim import Claim
from pipeline.errors import NotFound
from pipeline.jobs import Tenant
from pipeline.store import Fenced, Unavailable
from pipeline.store.postgres.database import CHAIN, Database, door
from pipeline.store.postgres.queries import SQL
from pipeline.store.rules import CHUNK_BYTES

ERASE_SECONDS: Final = 5.0  # between two looks for what was discarded
ERASE_CHUNKS: Final = 256  # at once: 64 MiB are gone in a fraction of UNIT_SECONDS
ERASE_UPLOADS: Final = 1000  # at once, which are small by then


class PostgresUpload:
    """Each row is written in a transaction of its own: none stays open while the client sends."""

    def __init__(self, database: Database, tenant: Tenant) -> None:
        self._database, self._tenant = database, tenant
        self._id = uuid4()
        self._waiting = bytearray()
        self._chunks = 0

    @property
    def id(self) -> UUID:
        return self._id

    async def write(self, chunk: bytes) -> None:
        self._waiting += chunk
        while len(self._waiting) >= CHUNK_BYTES:
            await self._flush()

    async def open(self) -> None:
        await self._execute("open_upload")

    async def close(self) -> None:
        if self._waiting:
            await self._flush()
        await self._execute("close_upload", self._chunks)

    async def _flush(self) -> None:
        await self._execute("write_chunk", self._chunks, bytes(self._waiting[:CHUNK_BYTES]))
        del self._waiting[:CHUNK_BYTES]
        self._chunks += 1

    async def _execute(self, name: str, *values: object) -> None:
        role = door(self._tenant)
        done = await self._database.unit(role, lambda c: c.execute(SQL[name], self._id, self._tenant, *values))
        if done.endswith(" 0"):  # it was silent for so long that it was taken for an orphan
            raise NotFound(f"The upload {self._id} was interrupted for too long; upload the file again.")


@asynccontextmanager
async def receive(database: Database, tenant: Tenant) -> AsyncGenerator[PostgresUpload, None]:
    upload = PostgresUpload(database, tenant)
    await upload.open()
    try:
        yield upload
        await upload.close()
    except BaseException:
        with suppress(Unavailable):  # then it is an orphan in an hour
            await discard(database, tenant, [upload.id])
        raise


async def discard(database: Database, tenant: Tenant, uploads: list[UUID]) -> None:
    await database.unit(door(tenant), lambda c: c.execute(SQL["discard_uploads"], uploads, tenant))


async def send(database: Database, claim: Claim, upload: UUID) -> AsyncGenerator[bytes, None]:
    """The file of a job that is still the claim's; ``Fenced`` as soon as it is not, so that no file ends early."""

    async def fetch(name: str, *values: int) -> Any:
        found = await database.unit(CHAIN, lambda c: c.fetchval(SQL[name], upload, claim.job.id, *values))
        if found is None:
            raise Fenced
        return found

    for number in range(await fetch("count_chunks")):
        yield await fetch("read_chunk", number)


async def erase(database: Database) -> None:
    """Delete what is discarded, in batches."""
    for name, at_once in (("erase_chunks", ERASE_CHUNKS), ("erase_uploads", ERASE_UPLOADS)):
        while await database.unit(CHAIN, lambda c: c.fetch(SQL[name], at_once)):  # noqa: B023  # done before the next
            pass


async def keep_erasing(database: Database) -> None:
    while True:
        with suppress(Unavailable):
            await erase(database)
        await anyio.sleep(ERASE_SECONDS)

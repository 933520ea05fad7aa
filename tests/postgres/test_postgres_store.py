"""The PostgreSQL store against the suite of all stores."""

from __future__ import annotations

import json

import anyio
import asyncpg
import pytest
from anyio.lowlevel import checkpoint

from pipeline.store.postgres import PostgresStore, uploads
from pipeline.store.postgres.database import Database
from pipeline.store.postgres.uploads import erase
from pipeline.store.rules import CHUNK_BYTES
from tests.conformance.store_suite import *  # noqa: F403  # the suite
from tests.conformance.store_suite.making import (
    ACME,
    PROBLEM,
    TRANSCRIPT,
    USAGE,
    Everything,
    claim,
    submit,
    upload,
)

pytestmark = pytest.mark.postgres


@pytest.fixture
def everything(admin: asyncpg.Connection[asyncpg.Record], dsn: str) -> Everything:
    async def show() -> str:
        await erase_discarded(dsn)
        tables = await admin.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'antiphon'")
        rows = [await admin.fetch(f"SELECT * FROM antiphon.{table['tablename']}") for table in tables]
        return repr(rows)

    return show


async def test_members_that_a_newer_replica_has_written_are_passed_over(
    store: PostgresStore, admin: asyncpg.Connection[asyncpg.Record]
) -> None:
    async def rewrite(table: str, *columns: str) -> None:
        """Put a member more into every object of these documents, however deep."""
        for column in columns:
            document = await admin.fetchval(f"SELECT {column} FROM antiphon.{table}")
            newer = json.loads(document, object_hook=lambda found: {**found, "newer": 1} if found else found)
            await admin.execute(f"UPDATE antiphon.{table} SET {column} = $1", json.dumps(newer))

    waiting = await submit(store, processing_mode="multitrack", tracks=[{"index": 0, "label": "agent"}])
    await rewrite("jobs", "request", "secrets", "progress")
    taken = await claim(store)
    assert (taken.job.id, taken.job.request) == (waiting.id, waiting.request)

    await store.queue().fail(taken, PROBLEM, retry_in=0.0)
    await rewrite("jobs", "last_error")
    await store.queue().commit(await claim(store), TRANSCRIPT, USAGE)
    await rewrite("jobs", "usage", "warnings")
    await rewrite("transcripts", "transcript")
    ended = await store.tenant(ACME).get(waiting.id)
    assert (ended.usage, ended.warnings, ended.last_error) == (USAGE, TRANSCRIPT.warnings, PROBLEM)
    assert await store.tenant(ACME).transcript(waiting.id) == TRANSCRIPT


async def erase_discarded(dsn: str) -> None:
    """What every open store does every few seconds."""
    database = Database(dsn, pool_size=1, pooled=False)
    await database.open()
    await erase(database)
    await database.close()


async def test_a_running_store_erases_what_is_discarded(
    dsn: str, admin: asyncpg.Connection[asyncpg.Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "ERASE_SECONDS", 0.01)
    async with PostgresStore(dsn) as store:
        kept, discarded = await upload(store, b"kept"), await upload(store, b"x" * CHUNK_BYTES, b"y")
        await store.tenant(ACME).discard([discarded])
        with anyio.fail_after(10):
            while await admin.fetchval("SELECT count(*) FROM antiphon.uploads") > 1:
                await checkpoint()

        assert await admin.fetchval("SELECT array_agg(upload_id) FROM antiphon.upload_chunks") == [kept]


async def test_large_files_are_erased_in_batches(
    store: PostgresStore, dsn: str, admin: asyncpg.Connection[asyncpg.Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "ERASE_CHUNKS", 2)
    await store.tenant(ACME).discard([await upload(store, b"x" * CHUNK_BYTES * 5) for _ in range(2)])
    await erase_discarded(dsn)

    assert await admin.fetchval("SELECT count(*) FROM antiphon.upload_chunks") == 0
    assert await admin.fetchval("SELECT count(*) FROM antiphon.uploads") == 0

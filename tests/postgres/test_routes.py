"""Routes with PostgreSQL behind them: the walk under row-level security, keys in a race, pages by its clock."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from asyncpg import Connection, Record
from pydantic import SecretStr

from pipeline.settings import AuthSettings, Settings
from pipeline.store.postgres import PostgresStore, migrate
from tests.api.test_idempotency import FILES, send_form
from tests.api.test_listing import pages
from tests.api.test_upload import MULTITRACK
from tests.api.visiting import SECRET, URL, Client, bearer, door
from tests.api.walking import World, find_no_difference

pytestmark = pytest.mark.postgres


@pytest.fixture
def settings() -> Settings:
    return Settings(auth=AuthSettings(secret=SecretStr(SECRET)))


@pytest.fixture
def client(store: PostgresStore, settings: Settings) -> Client:
    return door(store, settings).test_client()


async def test_nothing_tells_whether_there_is_anybody_else(
    store: PostgresStore, empty: str, settings: Settings
) -> None:
    await migrate(empty)
    async with PostgresStore(empty) as alone:
        await find_no_difference(World(store, settings), World(alone, settings))


async def test_the_same_submit_many_times_at_once_makes_one_job_and_keeps_its_files_once(
    client: Client, admin: Connection[Record]
) -> None:
    answers: list[Any] = []

    async def race() -> None:
        answers.append(await send_form(client, MULTITRACK, *FILES))

    async with anyio.create_task_group() as group:
        for _ in range(8):
            group.start_soon(race)
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.headers["Location"] for answer in answers}) == 1
    assert [answer.headers.get("Idempotency-Replayed") for answer in answers].count("true") == 7
    assert await admin.fetchval("SELECT count(*) FROM antiphon.jobs") == 1
    assert await admin.fetchval("SELECT count(*) FROM antiphon.uploads WHERE NOT discarded") == 2


async def test_pages_hold_every_job_once_and_in_order(client: Client) -> None:
    made = []
    for _ in range(7):
        answer = await client.post("/v1/jobs", headers=bearer(), json={"media_url": URL})
        made.append((await answer.get_json())["id"])
    found = await pages(client, limit=3)
    assert [len(page) for page in found] == [3, 3, 1]
    assert [job for page in found for job in page] == made[::-1]

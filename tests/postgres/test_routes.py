"""The walk along every route, with row-level security under it."""

from __future__ import annotations

import pytest
from pydantic import SecretStr

from pipeline.settings import AuthSettings, Settings
from pipeline.store.postgres import PostgresStore, migrate
from tests.api.visiting import SECRET
from tests.api.walking import World, find_no_difference

pytestmark = pytest.mark.postgres


async def test_nothing_tells_whether_there_is_anybody_else(store: PostgresStore, empty: str) -> None:
    settings = Settings(auth=AuthSettings(secret=SecretStr(SECRET)))
    await migrate(empty)
    async with PostgresStore(empty) as alone:
        await find_no_difference(World(store, settings), World(alone, settings))

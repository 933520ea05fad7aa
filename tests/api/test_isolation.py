from __future__ import annotations

from quart import Quart

from pipeline.settings import Settings
from pipeline.store.memory import MemoryStore
from tests.api.walking import World, find_no_difference, walk


async def test_nothing_tells_whether_there_is_anybody_else(settings: Settings) -> None:
    await find_no_difference(World(MemoryStore(), settings), World(MemoryStore(), settings))


async def test_every_route_of_a_tenant_needs_its_token(app: Quart) -> None:
    for asked in walk(app, ["00000000-0000-4000-8000-000000000000"], "x"):
        answer = await app.test_client().open(asked.path, method=asked.method, json=None)
        assert (answer.status_code == 401) == asked.path.startswith("/v1/"), asked

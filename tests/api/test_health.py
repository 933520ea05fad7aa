from __future__ import annotations

import anyio
import pytest

from api import Health
from pipeline.settings import Settings
from pipeline.store import Unavailable
from pipeline.store.memory import MemoryStore
from tests.api.visiting import door


class Flaky(MemoryStore):
    """A store whose connection can be cut, and that counts how often it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.away = False
        self.pings = 0

    async def ping(self) -> str:
        self.pings += 1
        if self.away:
            raise Unavailable
        return await super().ping()


async def test_ready_while_every_check_holds_and_else_names_what_does_not(settings: Settings) -> None:
    store, state = MemoryStore(), {"model": True, "serving": True}
    checks = {name: lambda name=name: state[name] for name in state}
    client = door(store, settings, health=Health(store, checks=checks)).test_client()
    assert (await client.get("/readyz")).status_code == 200
    state["model"] = False
    answer = await client.get("/readyz")
    assert answer.status_code == 503
    assert answer.headers["Retry-After"]
    body = await answer.get_json()
    assert (body["code"], body["detail"]) == ("engine-unavailable", "Not ready: model.")


async def test_a_lost_database_is_not_ready_and_still_alive(settings: Settings) -> None:
    store = Flaky()
    store.away = True
    client = door(store, settings).test_client()
    assert "database" in (await (await client.get("/readyz")).get_json())["detail"]
    assert (await client.get("/livez")).status_code == 200


async def test_many_probes_are_one_ping(settings: Settings) -> None:
    store = Flaky()
    health = Health(store, checks={})
    async with anyio.create_task_group() as probes:
        for _ in range(20):
            probes.start_soon(health.failing)
    assert store.pings == 1


async def test_a_database_that_hangs_is_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    class Hanging(MemoryStore):
        async def ping(self) -> str:
            await anyio.sleep_forever()
            raise AssertionError  # nobody wakes it

    monkeypatch.setattr("api.health.PING_SECONDS", 0.01)
    assert await Health(Hanging(), checks={}).failing() == ("database",)


async def test_what_only_a_new_process_can_help_is_not_alive(settings: Settings) -> None:
    store = MemoryStore()
    client = door(store, settings, health=Health(store, checks={}, alive=lambda: False)).test_client()
    assert (await client.get("/livez")).status_code == 503

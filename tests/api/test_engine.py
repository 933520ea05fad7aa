from __future__ import annotations

import os
from multiprocessing import get_context
from multiprocessing.synchronize import Event
from typing import Any

import pytest

from api.engine import EngineView, resident_bytes
from pipeline.settings import Settings
from pipeline.store import Unavailable
from pipeline.store.memory import MemoryStore
from tests.api.visiting import STATE, Client, bearer, door

MEASURED = pytest.mark.skipif(resident_bytes(os.getpid()) is None, reason="This system tells nobody's memory.")


async def told(client: Client) -> dict[str, Any]:
    answer = await client.get("/v1/engine", headers=bearer())
    assert answer.status_code == 200
    return dict(await answer.get_json())


async def test_a_tenant_is_told_what_the_engine_is_what_it_can_and_how_busy_it_is(client: Client) -> None:
    view = await told(client)
    assert EngineView.model_validate_json(EngineView(**view).model_dump_json())
    assert view.items() >= STATE.model_dump(mode="json").items()
    assert view["database"] == {"reachable": True, "version": "memory"}


async def test_the_engine_is_nobodys_business_without_a_token(client: Client) -> None:
    answer = await client.get("/v1/engine")
    assert (answer.status_code, (await answer.get_json())["code"]) == (401, "unauthenticated")


async def test_the_engine_is_told_of_while_the_database_is_away(settings: Settings) -> None:
    class Away(MemoryStore):
        async def ping(self) -> str:
            raise Unavailable

    view = await told(door(Away(), settings).test_client())
    assert view["database"] == {"reachable": False, "version": None}


@MEASURED
async def test_memory_is_that_of_this_process_and_of_the_lanes_that_are_processes(client: Client) -> None:
    spawning = get_context("spawn")
    over = spawning.Event()
    lane = spawning.Process(target=wait, args=[over])
    assert (await told(client))["memory"]["lanes_bytes"] == 0
    lane.start()
    memory = (await told(client))["memory"]
    over.set()
    lane.join()
    assert memory["process_bytes"] > 10_000_000  # an interpreter alone
    assert memory["lanes_bytes"] > 0


def wait(over: Event) -> None:
    over.wait()


def test_a_process_that_is_not_there_has_no_memory() -> None:
    assert resident_bytes(None) is None

"""What a client may do with a job besides asking for it: cancel it, and erase it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest

from pipeline.errors import MediaCorrupt
from pipeline.jobs import Problem
from pipeline.store import Fenced
from pipeline.store.memory import MemoryStore
from tests.api.test_reading import claim_of, job_of
from tests.api.test_upload import form, part, post
from tests.api.visiting import Client, bearer, complete, make_segment, make_transcript


async def test_a_waiting_job_is_cancelled_at_once_and_cancelling_again_changes_nothing(
    client: Client, submit: Callable[..., Any]
) -> None:
    path = await job_of(await submit())
    first, second = [await client.post(f"{path}/cancel", headers=bearer()) for _ in range(2)]
    assert (first.status_code, second.status_code) == (200, 200)
    body = await first.get_json()
    assert (body["status"], body["error"]) == ("cancelled", None)
    assert body["completed_at"]
    assert await second.get_json() == body == await (await client.get(path, headers=bearer())).get_json()


async def test_a_running_job_is_cancelled_when_its_worker_hears_of_it(
    client: Client, store: MemoryStore, submit: Callable[..., Any]
) -> None:
    path = await job_of(await submit())
    claim = await claim_of(store)
    answer = await client.post(f"{path}/cancel", headers=bearer())
    assert (answer.status_code, (await answer.get_json())["status"]) == (200, "running")
    renewal = await store.queue().renew([claim], lease_seconds=60)
    assert renewal.cancelled == {claim.token}
    await store.queue().cancel(claim)
    assert (await (await client.get(path, headers=bearer())).get_json())["status"] == "cancelled"


@pytest.mark.parametrize("end", ["completed", "failed"])
async def test_what_has_ended_otherwise_cannot_be_cancelled(
    client: Client, store: MemoryStore, submit: Callable[..., Any], end: str
) -> None:
    path = await job_of(await submit())
    if end == "completed":
        await complete(store, make_transcript(make_segment(0, "Hello")))
    else:
        await store.queue().fail(await claim_of(store), Problem.of(MediaCorrupt()), retry_in=None)
    answer = await client.post(f"{path}/cancel", headers=bearer())
    body = await answer.get_json()
    assert (answer.status_code, body["code"], body["retryable"]) == (409, "job-finished", False)
    assert end in body["detail"]


@pytest.mark.parametrize("state", ["pending", "running", "completed"])
async def test_a_deleted_job_is_gone_in_every_state(
    client: Client, store: MemoryStore, submit: Callable[..., Any], state: str
) -> None:
    path = await job_of(await submit())
    if state == "completed":
        await complete(store, make_transcript(make_segment(0, "Hello")))
    claim = await claim_of(store) if state == "running" else None
    answer = await client.delete(path, headers=bearer())
    assert (answer.status_code, await answer.get_data()) == (204, b"")
    for method, place in (("GET", path), ("GET", f"{path}/transcript"), ("POST", f"{path}/cancel"), ("DELETE", path)):
        assert (await client.open(place, method=method, headers=bearer(), json=None)).status_code == 404
    assert await (await client.get("/v1/jobs", headers=bearer())).get_json() == {"items": [], "next_cursor": None}
    if claim:
        with pytest.raises(Fenced):
            await store.queue().give_back(claim)


async def test_the_files_of_a_job_go_with_it(client: Client, store: MemoryStore) -> None:
    answer = await post(client, form(part("file", b"RIFF....")))
    assert store.files
    await client.delete(await job_of(answer), headers=bearer())
    assert store.files == {}


@pytest.mark.parametrize(("method", "leaf"), [("POST", "/cancel"), ("DELETE", "")])
async def test_jobs_of_others_are_neither_cancelled_nor_erased(
    client: Client, submit: Callable[..., Any], method: str, leaf: str
) -> None:
    foreign = await job_of(await submit("globex"))
    bodies = []
    for path in (foreign, f"/v1/jobs/{uuid4()}", "/v1/jobs/7"):
        answer = await client.open(path + leaf, method=method, headers=bearer("acme"), json=None)
        assert answer.status_code == 404
        body = await answer.get_json()
        bodies.append({name: told for name, told in body.items() if name not in ("instance", "request_id")})
    assert bodies[0] == bodies[1] == bodies[2]
    assert (await (await client.get(foreign, headers=bearer("globex"))).get_json())["status"] == "pending"


async def test_the_queue_tells_a_tenant_of_its_own_jobs(
    client: Client, store: MemoryStore, submit: Callable[..., Any]
) -> None:
    empty = await (await client.get("/v1/queue", headers=bearer())).get_json()
    assert empty == {"pending": 0, "running": 0, "oldest_seconds": None, "ahead": None, "starts_in_seconds": None}
    await submit("globex")
    for _ in range(3):
        await submit()
    while (await claim_of(store)).job.tenant != "acme":
        pass
    standing = await (await client.get("/v1/queue", headers=bearer())).get_json()
    assert (standing["pending"], standing["running"]) == (2, 1)
    assert standing["oldest_seconds"] >= 0
    other = await (await client.get("/v1/queue", headers=bearer("initech"))).get_json()
    assert other == empty

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest

from api.schemas import JobSummary
from pipeline.store.memory import MemoryStore
from tests.api.visiting import Client, bearer, complete, make_segment, make_transcript


async def listed(client: Client, tenant: str = "acme", **query: Any) -> dict[str, Any]:
    asked = "&".join(f"{name}={quote(str(value))}" for name, value in query.items())
    answer = await client.get(f"/v1/jobs?{asked}", headers=bearer(tenant))
    assert answer.status_code == 200, await answer.get_data()
    return dict(await answer.get_json())


async def pages(client: Client, **query: Any) -> list[list[str]]:
    """The ids of every page, by following cursors."""
    page = await listed(client, **query)
    found = [[job["id"] for job in page["items"]]]
    while page["next_cursor"]:
        page = await listed(client, **query, cursor=page["next_cursor"])
        found.append([job["id"] for job in page["items"]])
    return found


async def ids(submit: Callable[..., Any], count: int, **asked: object) -> list[str]:
    return [(await (await submit(**asked)).get_json())["id"] for _ in range(count)]


async def test_a_list_is_newest_first_without_results_and_nobody_elses(
    client: Client, store: MemoryStore, submit: Callable[..., Any]
) -> None:
    first = (await ids(submit, 1))[0]
    await complete(store, make_transcript(make_segment(0, "Hello")))
    later = await ids(submit, 2)
    await submit("globex")
    page = await listed(client)
    assert [job["id"] for job in page["items"]] == [*reversed(later), first]
    assert page["next_cursor"] is None
    assert [job["status"] for job in page["items"]] == ["pending", "pending", "completed"]
    assert all("result" not in job and JobSummary.model_validate(job) for job in page["items"])


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 8, 200])
async def test_pages_hold_every_job_once_and_in_order(client: Client, submit: Callable[..., Any], limit: int) -> None:
    made = await ids(submit, 7)
    found = await pages(client, limit=limit)
    assert [job for page in found for job in page] == made[::-1]
    assert all(len(page) == limit for page in found[:-1])
    assert found[-1]


async def test_what_comes_and_goes_while_one_reads_neither_repeats_nor_hides_the_rest(
    client: Client, submit: Callable[..., Any]
) -> None:
    made = await ids(submit, 5)
    first = await listed(client, limit=2)
    await ids(submit, 2)
    for gone in (made[3], made[2]):  # the one that the cursor stands behind, and the next
        await client.delete(f"/v1/jobs/{gone}", headers=bearer())
    rest = await listed(client, limit=50, cursor=first["next_cursor"])
    assert [job["id"] for job in rest["items"]] == [made[1], made[0]]


async def test_filters_choose_and_go_together(client: Client, store: MemoryStore, submit: Callable[..., Any]) -> None:
    called = (await ids(submit, 1, external_id="a b&c"))[0]
    await complete(store, make_transcript(make_segment(0, "Hello")))
    await ids(submit, 2, external_id="other")
    again = (await ids(submit, 1, external_id="a b&c"))[0]
    assert await pages(client, external_id="a b&c") == [[again, called]]
    assert await pages(client, external_id="a b&c", status="completed") == [[called]]
    assert await pages(client, status="cancelled") == [[]]


async def test_bounds_of_time_are_exclusive_and_in_any_offset(client: Client, submit: Callable[..., Any]) -> None:
    for _ in range(3):
        await submit()
    newest, middle, oldest = (await listed(client))["items"]
    assert await pages(client, created_after=middle["created_at"]) == [[newest["id"]]]
    assert await pages(client, created_before=middle["created_at"]) == [[oldest["id"]]]
    between = {"created_after": oldest["created_at"], "created_before": newest["created_at"].replace("Z", "+00:00")}
    assert await pages(client, **between) == [[middle["id"]]]
    assert await pages(client, created_after="2000-01-01T02:00:00+02:00", limit=2) == [
        [newest["id"], middle["id"]],
        [oldest["id"]],
    ]


@pytest.mark.parametrize(
    ("query", "pointers"),
    [
        ("limit=0", ["/limit"]),
        ("limit=201", ["/limit"]),
        ("limit=many", ["/limit"]),
        ("status=done", ["/status"]),
        ("created_after=2026-11-23", ["/created_after"]),
        ("created_after=2026-11-23T10:00:00", ["/created_after"]),
        ("created_after=1795426200", ["/created_after"]),
        ("created_after=2026-11-23 10:00:00Z", ["/created_after"]),
        ("created_after=2026-11-23T10:00Z", ["/created_after"]),
        ("created_after=2026-13-23T10:00:00Z", ["/created_after"]),
        ("created_after=2026-11-23T10:00:60Z", ["/created_after"]),
        ("created_after=0000-11-23T10:00:00Z", ["/created_after"]),
        ("limit=%2B5", ["/limit"]),
        ("limit=5.0", ["/limit"]),
        ("limit=1_0", ["/limit"]),
        ("limit=" + "9" * 5000, ["/limit"]),
        ("limit=5&limit=5", ["/limit"]),
        ("a~b=1&external_id=a&a~b=2&external_id=b", ["/a~0b", "/external_id"]),
        ("created_after=yesterday&created_before=0001-01-01T00:00:00%2B14:00", ["/created_after", "/created_before"]),
        ("external_id=%00", ["/external_id"]),
        ("external_id=" + "x" * 257, ["/external_id"]),
        ("stauts=completed", ["/stauts"]),
        ("cursor=", ["/cursor"]),
        ("cursor=7", ["/cursor"]),
        ("cursor=" + "A" * 44, ["/cursor"]),
        ("cursor=" + "%F0%9F%A6%84" * 11, ["/cursor"]),
    ],
)
async def test_what_is_wrong_with_a_query_is_pointed_at(client: Client, query: str, pointers: list[str]) -> None:
    answer = await client.get(f"/v1/jobs?{query}", headers=bearer())
    body = await answer.get_json()
    assert (answer.status_code, body["code"]) == (422, "invalid-request")
    assert [error["pointer"] for error in body["errors"]] == pointers
    assert all(error["detail"].endswith(".") and "Input" not in error["detail"] for error in body["errors"])


async def test_a_cursor_that_was_changed_anywhere_or_is_of_another_list_is_refused(
    client: Client, submit: Callable[..., Any]
) -> None:
    await ids(submit, 3)
    cursor = (await listed(client, limit=1))["next_cursor"]
    changed = [cursor[:at] + ("A" if letter != "A" else "B") + cursor[at + 1 :] for at, letter in enumerate(cursor)]
    for query in [*(f"cursor={wrong}" for wrong in changed), f"cursor={cursor}&status=pending", f"cursor={cursor}AAAA"]:
        answer = await client.get(f"/v1/jobs?{query}", headers=bearer())
        assert answer.status_code == 422, query
        assert [error["pointer"] for error in (await answer.get_json())["errors"]] == ["/cursor"]
    assert (await client.get(f"/v1/jobs?cursor={cursor}&limit=7", headers=bearer())).status_code == 200


async def test_another_tenants_cursor_leads_through_ones_own_jobs(client: Client, submit: Callable[..., Any]) -> None:
    mine = (await ids(submit, 1))[0]
    for _ in range(2):
        await submit("globex")
    cursor = (await listed(client, "globex", limit=1))["next_cursor"]
    assert [job["id"] for job in (await listed(client, "acme", cursor=cursor))["items"]] == [mine]

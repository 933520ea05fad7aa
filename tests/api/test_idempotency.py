from __future__ import annotations

from typing import Any

import anyio
import pytest

from pipeline.store.memory import MemoryStore
from tests.api.test_upload import BOUNDARY, MULTITRACK, asking, form, part
from tests.api.visiting import URL, Client, bearer, complete, make_segment, make_transcript

FORM = f"multipart/form-data; boundary={BOUNDARY}"


async def send(client: Client, key: str | None = "one", tenant: str = "acme", **asked: Any) -> Any:
    headers = bearer(tenant, **({"Idempotency-Key": key} if key else {}))
    return await client.post("/v1/jobs", headers=headers, json={"media_url": URL, **asked})


async def send_form(client: Client, *parts: bytes, boundary: str = BOUNDARY) -> Any:
    headers = bearer(**{"Content-Type": FORM.replace(BOUNDARY, boundary), "Idempotency-Key": "one"})
    return await client.post(
        "/v1/jobs", headers=headers, data=form(*parts).replace(BOUNDARY.encode(), boundary.encode())
    )


async def is_replay(first: Any, second: Any) -> bool:
    """The first answer again. ``False``: the second is one of its own."""
    assert (first.status_code, second.status_code) == (202, 202)
    assert "Idempotency-Replayed" not in first.headers
    if second.headers.get("Idempotency-Replayed") is None:
        return False
    assert second.headers["Idempotency-Replayed"] == "true"
    for name in ("Location", "Retry-After", "Content-Type"):
        assert first.headers[name] == second.headers[name]
    assert await first.get_data() == await second.get_data()
    return True


async def test_the_same_submit_is_answered_as_the_first_time_also_when_its_job_has_ended(
    client: Client, store: MemoryStore
) -> None:
    first = await send(client)
    assert await is_replay(first, await send(client))
    await complete(store, make_transcript(make_segment(0, "Hello")))
    assert await is_replay(first, await send(client))
    assert len(store.rows) == 1


@pytest.mark.parametrize(
    "again",
    [
        {"media_url": f"{URL}?X-Amz-Signature=another#part"},
        {"media_headers": {"Authorization": "Bearer another"}},
        {"quality": "balanced", "language": None, "tracks": [], "metadata": {"b": {"y": 2, "x": 1}, "a": 1}},
    ],
    ids=["signed anew", "another token", "said at length"],
)
async def test_what_opens_doors_and_what_goes_without_saying_is_not_compared(
    client: Client, store: MemoryStore, again: dict[str, Any]
) -> None:
    before: dict[str, Any] = {"media_url": f"{URL}?X-Amz-Signature=one", "metadata": {"a": 1, "b": {"x": 1, "y": 2}}}
    assert await is_replay(await send(client, **before), await send(client, **{**before, **again}))
    assert len(store.rows) == 1


@pytest.mark.parametrize(
    "other",
    [
        {"media_url": "https://media.test/other.mkv"},
        {"language": "en"},
        {"callback_url": "https://app.test/hook?key=2"},
        {"metadata": {"a": 2}},
    ],
    ids=str,
)
async def test_another_request_with_a_key_of_before_is_refused(
    client: Client, store: MemoryStore, other: dict[str, Any]
) -> None:
    before: dict[str, Any] = {"callback_url": "https://app.test/hook?key=1", "metadata": {"a": 1}}
    await send(client, **before)
    answer = await send(client, **{**before, **other})
    body = await answer.get_json()
    assert (answer.status_code, body["code"], body["retryable"]) == (422, "idempotency-mismatch", False)
    assert len(store.rows) == 1


async def test_other_keys_no_keys_and_other_tenants_make_other_jobs(client: Client, store: MemoryStore) -> None:
    sent = [("one", "acme"), ("two", "acme"), ("one", "globex"), (None, "acme"), (None, "acme")]
    answers = [await send(client, key, tenant) for key, tenant in sent]
    assert [answer.headers.get("Idempotency-Replayed") for answer in answers] == [None] * 5
    assert len(store.rows) == 5


@pytest.mark.parametrize("key", ["", " ", "a b", "é", "x" * 129, "a\tb"], ids=repr)
async def test_a_malformed_key_is_refused(client: Client, store: MemoryStore, key: str) -> None:
    headers = [*bearer().items(), ("Idempotency-Key", key)]
    answer = await client.post("/v1/jobs", headers=headers, json={"media_url": URL})
    assert (answer.status_code, (await answer.get_json())["code"]) == (422, "invalid-request")
    assert not store.rows


@pytest.mark.parametrize("key", ["!", "~" * 128, '"quoted"'])
async def test_a_key_may_be_any_visible_ascii(client: Client, key: str) -> None:
    assert await is_replay(await send(client, key), await send(client, key))


async def test_two_keys_are_none(client: Client, store: MemoryStore) -> None:
    headers = [*bearer().items(), ("Idempotency-Key", "one"), ("Idempotency-Key", "two")]
    answer = await client.post("/v1/jobs", headers=headers, json={"media_url": URL})
    assert (answer.status_code, len(store.rows)) == (422, 0)


async def test_a_request_that_was_refused_has_not_used_its_key(client: Client) -> None:
    assert (await send(client, language="ja")).status_code == 422
    assert (await send(client, language="en")).status_code == 202


async def test_an_erased_job_takes_its_key_with_it(client: Client, store: MemoryStore) -> None:
    first = await send(client)
    await client.delete(first.headers["Location"], headers=bearer())
    assert not await is_replay(first, await send(client))
    assert len(store.rows) == 1


async def test_a_job_that_was_kept_for_its_time_is_not_made_again(client: Client, store: MemoryStore) -> None:
    asked = asking(processing_mode="multitrack", retention_seconds=0)
    first = await send_form(client, asked, *FILES)
    await client.post(f"{first.headers['Location']}/cancel", headers=bearer())
    await store.queue().sweep()
    answer = await send_form(client, asked, *FILES)
    body = await answer.get_json()
    assert (answer.status_code, body["code"], body["retryable"]) == (404, "not-found", False)
    assert "'one'" in body["detail"]
    assert (store.rows, store.files) == ({}, {})


FILES = [part("file", b"agent" * 30_000), part("file", b"caller")]


@pytest.mark.parametrize(
    ("parts", "boundary"),
    [
        ([MULTITRACK, *FILES], "another-line"),
        ([FILES[0], MULTITRACK, FILES[1]], BOUNDARY),
        ([MULTITRACK, part("file", b"agent" * 30_000, "agent.wav"), FILES[1]], BOUNDARY),
    ],
    ids=["boundary", "order of the request", "name of a file"],
)
async def test_the_same_files_are_the_same_submit_and_are_not_kept_twice(
    client: Client, store: MemoryStore, parts: list[bytes], boundary: str
) -> None:
    first = await send_form(client, MULTITRACK, *FILES)
    kept = set(store.files)
    assert await is_replay(first, await send_form(client, *parts, boundary=boundary))
    assert (len(store.rows), set(store.files)) == (1, kept)


@pytest.mark.parametrize(
    "parts",
    [
        [MULTITRACK, *FILES[::-1]],
        [MULTITRACK, *FILES, FILES[1]],
        [MULTITRACK, FILES[0]],
        [MULTITRACK, FILES[0], part("file", b"callee")],
        [asking(processing_mode="multitrack", crosstalk="off"), *FILES],
    ],
    ids=["order", "one more", "one less", "a byte", "request"],
)
async def test_other_files_are_another_submit_and_none_of_them_is_kept(
    client: Client, store: MemoryStore, parts: list[bytes]
) -> None:
    await send_form(client, MULTITRACK, *FILES)
    kept = set(store.files)
    answer = await send_form(client, *parts)
    assert (await answer.get_json())["code"] == "idempotency-mismatch"
    assert (len(store.rows), set(store.files)) == (1, kept)


async def test_the_same_submit_many_times_at_once_makes_one_job(client: Client, store: MemoryStore) -> None:
    answers: list[Any] = []

    async def race() -> None:
        answers.append(await send_form(client, MULTITRACK, *FILES))

    async with anyio.create_task_group() as group:
        for _ in range(10):
            group.start_soon(race)
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.headers["Location"] for answer in answers}) == 1
    assert [answer.headers.get("Idempotency-Replayed") for answer in answers].count("true") == 9
    assert (len(store.rows), len(store.files)) == (1, 2)

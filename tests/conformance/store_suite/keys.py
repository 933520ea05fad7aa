"""One submit, however often it is sent."""

from __future__ import annotations

import anyio
import pytest

from pipeline.errors import IdempotencyMismatch, JobGone, QuotaExceeded
from pipeline.jobs import Job
from pipeline.store import IdempotencyKey, KeyUsed, Store, TenantTerms
from tests.conformance.store_suite.making import (
    ACME,
    GLOBEX,
    TRANSCRIPT,
    USAGE,
    PassTime,
    a_request,
    claim,
    nothing_ready,
    submit,
    upload,
)

KEY = IdempotencyKey("order 66", b"digest")
DAY = 24 * 3600.0


async def submit_with(store: Store, key: IdempotencyKey = KEY) -> Job:
    return await store.tenant(ACME).submit(a_request(), key=key)


class TestIdempotencyKeys:
    async def test_a_key_makes_one_job(self, store: Store) -> None:
        assert await store.tenant(ACME).made_with(KEY) is None
        job = await submit_with(store)
        with pytest.raises(KeyUsed):
            await submit_with(store)

        assert await store.tenant(ACME).made_with(KEY) == job
        await claim(store)
        assert await nothing_ready(store)

    async def test_its_job_is_shown_as_it_was_then(self, store: Store) -> None:
        job = await submit_with(store)
        for settle in (store.queue().give_back, lambda taken: store.queue().commit(taken, TRANSCRIPT, USAGE)):
            taken = await claim(store)
            taken.advance("transcribing", 0.5)
            await store.queue().report([taken])
            assert await store.tenant(ACME).made_with(KEY) == job
            await settle(taken)

        assert await store.tenant(ACME).made_with(KEY) == job

    async def test_the_same_key_with_something_else_is_a_mistake(self, store: Store) -> None:
        await submit_with(store)
        other = IdempotencyKey(KEY.key, b"another")

        with pytest.raises(IdempotencyMismatch):
            await store.tenant(ACME).made_with(other)
        with pytest.raises(KeyUsed):
            await submit_with(store, other)

    async def test_a_key_is_its_tenants_own(self, store: Store) -> None:
        await submit_with(store)

        for digest in (KEY.digest, b"another"):
            assert await store.tenant(GLOBEX).made_with(IdempotencyKey(KEY.key, digest)) is None
        await store.tenant(GLOBEX).submit(a_request(), key=KEY)

    async def test_it_is_kept_for_a_day(self, store: Store, pass_time: PassTime) -> None:
        job = await submit_with(store)
        await pass_time(DAY - 60)
        await store.queue().sweep()
        assert await store.tenant(ACME).made_with(KEY) == job

        await pass_time(120)
        await store.queue().sweep()
        assert await store.tenant(ACME).made_with(KEY) is None
        assert (await submit_with(store)).id != job.id

    async def test_it_goes_with_its_job(self, store: Store) -> None:
        await store.tenant(ACME).delete((await submit_with(store)).id)

        assert await store.tenant(ACME).made_with(KEY) is None
        await submit_with(store)

    async def test_it_outlives_a_job_that_was_kept_for_less_and_makes_no_other(
        self, store: Store, pass_time: PassTime
    ) -> None:
        job = await store.tenant(ACME).submit(a_request(retention_seconds=0), key=KEY)
        await store.tenant(ACME).cancel(job.id)
        assert (await store.queue().sweep()).expired == 1

        with pytest.raises(JobGone, match=KEY.key):
            await store.tenant(ACME).made_with(KEY)
        with pytest.raises(IdempotencyMismatch):
            await store.tenant(ACME).made_with(IdempotencyKey(KEY.key, b"another"))
        with pytest.raises(KeyUsed):
            await submit_with(store)

        await pass_time(DAY + 60)
        await store.queue().sweep()
        assert await store.tenant(ACME).made_with(KEY) is None
        await submit_with(store)

    async def test_of_many_at_once_one_makes_the_job(self, store: Store) -> None:
        made: list[Job] = []
        used: list[KeyUsed] = []

        async def send() -> None:
            try:
                made.append(await submit_with(store))
            except KeyUsed as error:
                used.append(error)

        async with anyio.create_task_group() as tasks:
            for _ in range(6):
                tasks.start_soon(send)

        assert (len(made), len(used)) == (1, 5)
        assert await store.tenant(ACME).made_with(KEY) == made[0]

    async def test_a_submit_that_is_refused_uses_no_key_and_no_upload(self, store: Store) -> None:
        await store.terms().set(TenantTerms(ACME, max_pending=1))
        await submit(store)
        file = await upload(store, b"x")
        with pytest.raises(QuotaExceeded):
            await store.tenant(ACME).submit(a_request(media_url=None), uploads=[file], key=KEY)
        assert await store.tenant(ACME).made_with(KEY) is None

        await claim(store)
        await store.tenant(ACME).submit(a_request(media_url=None), uploads=[file], key=KEY)

    async def test_a_submit_of_a_used_key_takes_no_upload(self, store: Store) -> None:
        await submit_with(store)
        file = await upload(store, b"x")
        with pytest.raises(KeyUsed):
            await store.tenant(ACME).submit(a_request(media_url=None), uploads=[file], key=KEY)

        await store.tenant(ACME).submit(a_request(media_url=None), uploads=[file])

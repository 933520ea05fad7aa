"""A job that is to be gone."""

from __future__ import annotations

from uuid import UUID, uuid4

import anyio
import pytest

from pipeline.errors import NotFound
from pipeline.store import Fenced, Listing, Renewal, Store
from tests.conformance.store_suite.making import (
    ACME,
    GLOBEX,
    LEASE,
    PROBLEM,
    SAID,
    SECRET,
    SETTLERS,
    Books,
    Everything,
    Settle,
    a_request,
    claim,
    due,
    every_settler,
    nothing_ready,
    submit,
    upload,
)

STATES = ("pending", "waiting", "running", "completed", "failed", "cancelled")
every_state = pytest.mark.parametrize("state", STATES)


async def in_state(store: Store, state: str) -> UUID:
    """A job of one upload with a secret, a callback and, where it has run, a checkpoint."""
    file = await upload(store, b"xxx")
    request = a_request(
        media_url=None, media_headers={"Authorization": SECRET}, callback_url="https://app.test/hook", prompt="asked"
    )
    job = (await store.tenant(ACME).submit(request, uploads=[file])).id
    if state == "pending":
        return job
    taken = await claim(store)
    await store.queue().keep(taken, {b"a" * 16: '"kept"'})
    if state == "waiting":
        await store.queue().fail(taken, PROBLEM, retry_in=20.0)
    elif state != "running":
        await SETTLERS[{"completed": "commit", "failed": "fail", "cancelled": "cancel"}[state]](store.queue(), taken)
    return job


class TestDelete:
    @every_state
    async def test_it_is_gone_with_all_that_was_made_of_it(
        self, store: Store, state: str, everything: Everything
    ) -> None:
        job = await in_state(store, state)
        await store.tenant(ACME).delete(job)

        for gone in (store.tenant(ACME).get, store.tenant(ACME).transcript, store.tenant(ACME).delete):
            with pytest.raises(NotFound, match=str(job)):
                await gone(job)
        assert await store.tenant(ACME).list(Listing(limit=10)) == []
        assert await nothing_ready(store)
        left = await everything()
        assert not [secret for secret in (SECRET, "xxx", "kept", "asked", SAID.text[:5]) if secret in left]

    @every_state
    async def test_its_usage_stays_and_is_written_once(self, store: Store, state: str, books: Books) -> None:
        job = await in_state(store, state)
        await store.tenant(ACME).delete(job)

        outcome = state if state in ("completed", "failed") else "cancelled"
        assert [(used.job, used.tenant, used.outcome) for used in await books.usage()] == [(job, ACME, outcome)]

    @pytest.mark.parametrize("state", ["pending", "waiting", "running"])
    async def test_nobody_is_called_about_a_job_that_had_not_ended(self, store: Store, state: str) -> None:
        await store.tenant(ACME).delete(await in_state(store, state))

        assert await due(store) == []

    @every_settler
    async def test_the_worker_of_a_running_one_is_refused(
        self, store: Store, settle: Settle, everything: Everything
    ) -> None:
        job = await in_state(store, "pending")
        taken = await claim(store)
        await store.tenant(ACME).delete(job)

        assert await store.queue().renew([taken], lease_seconds=LEASE) == Renewal(frozenset(), frozenset())
        await store.queue().report([taken])
        with pytest.raises(Fenced):
            await store.queue().keep(taken, {b"a" * 16: '"kept"'})
        with pytest.raises(Fenced):
            await settle(store.queue(), taken)
        assert SAID.text[:5] not in await everything()

    async def test_a_worker_that_waits_for_news_hears_of_it_at_once(self, store: Store) -> None:
        job = await in_state(store, "running")
        with anyio.fail_after(10):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(store.queue().cancels)
                await store.tenant(ACME).delete(job)

    @every_state
    async def test_a_foreign_job_cannot_be_deleted(self, store: Store, state: str) -> None:
        job = await in_state(store, state)
        before = await store.tenant(ACME).get(job)

        for absent in (job, uuid4()):
            with pytest.raises(NotFound, match=str(absent)):
                await store.tenant(GLOBEX).delete(absent)
        assert await store.tenant(ACME).get(job) == before

    async def test_others_are_left_alone(self, store: Store) -> None:
        kept = [await submit(store), await submit(store, GLOBEX)]
        await store.tenant(ACME).delete(await in_state(store, "pending"))

        assert {(await claim(store)).job.id, (await claim(store)).job.id} == {job.id for job in kept}

"""What the engine said, kept for whoever goes on with the job."""

from __future__ import annotations

import pytest

from pipeline.store import Fenced, Store
from tests.conformance.store_suite.making import (
    ACME,
    SETTLERS,
    Everything,
    PassTime,
    Settle,
    begun,
    claim,
    every_end,
    submit,
)

A, B, C = (bytes([number]) * 16 for number in range(3))
RETURNS = ("retry", "give_back")
every_return = pytest.mark.parametrize("settle", [SETTLERS[name] for name in RETURNS], ids=RETURNS)


class TestCheckpoints:
    async def test_what_is_kept_is_found_again_as_it_was(self, store: Store) -> None:
        await submit(store)
        taken = await claim(store)
        assert not taken.resumes
        assert await store.queue().kept(taken) == {}

        await store.queue().keep(taken, {A: '{"text": "你好 \\u0000",  "end": 1.50}', B: "[]"})
        await store.queue().keep(taken, {C: "null", B: "[1]"})
        await store.queue().keep(taken, {})
        assert await store.queue().kept(taken) == {A: '{"text": "你好 \\u0000",  "end": 1.50}', B: "[1]", C: "null"}

    @every_return
    async def test_the_next_attempt_has_it(self, store: Store, settle: Settle) -> None:
        await submit(store)
        taken = await claim(store)
        await store.queue().keep(taken, {A: '"a"'})
        await settle(store.queue(), taken)
        again = await claim(store)
        await store.queue().keep(again, {B: '"b"'})

        assert again.resumes
        assert await store.queue().kept(again) == {A: '"a"', B: '"b"'}

    async def test_a_lost_worker_does_not_take_it_along(self, store: Store) -> None:
        await submit(store)
        lost = await claim(store)
        await store.queue().keep(lost, {A: '"a"'})
        await store.queue().void_leases()
        again = await begun(store)

        assert again.resumes
        assert await store.queue().kept(again) == {A: '"a"'}
        with pytest.raises(Fenced):
            await store.queue().keep(lost, {B: '"b"'})
        assert await store.queue().kept(again) == {A: '"a"'}

    @every_end
    async def test_it_is_gone_when_the_job_ends(self, store: Store, settle: Settle, everything: Everything) -> None:
        await submit(store)
        taken = await claim(store)
        await store.queue().keep(taken, {A: '"a draft"'})
        assert "a draft" in await everything()
        await settle(store.queue(), taken)

        assert "a draft" not in await everything()
        assert await store.queue().kept(taken) == {}
        with pytest.raises(Fenced):
            await store.queue().keep(taken, {B: '"a draft"'})

    async def test_it_is_gone_when_a_waiting_job_is_cancelled(self, store: Store, everything: Everything) -> None:
        job = await submit(store)
        taken = await claim(store)
        await store.queue().keep(taken, {A: '"a draft"'})
        await store.queue().give_back(taken)
        await store.tenant(ACME).cancel(job.id)

        assert "a draft" not in await everything()

    async def test_a_job_has_its_own_only(self, store: Store) -> None:
        await submit(store)
        await submit(store)
        one, two = await claim(store), await claim(store)
        await store.queue().keep(one, {A: '"a"'})
        await store.queue().keep(two, {A: '"other"'})
        await store.queue().give_back(two)

        assert await store.queue().kept(one) == {A: '"a"'}

    async def test_nothing_is_kept_once_the_lease_is_taken_back(self, store: Store, pass_time: PassTime) -> None:
        await submit(store)
        lost = await claim(store)
        await store.queue().void_leases()

        with pytest.raises(Fenced):
            await store.queue().keep(lost, {A: '"a"'})
        assert not (await claim(store)).resumes

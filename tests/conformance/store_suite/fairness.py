"""Whose turn it is between tenants."""

from __future__ import annotations

from collections import Counter

from pipeline.claim import Claim
from pipeline.jobs import Tenant
from pipeline.store import Store, TenantTerms
from tests.conformance.store_suite.making import (
    ACME,
    GLOBEX,
    LEASE,
    TRANSCRIPT,
    USAGE,
    Settle,
    claim,
    every_settler,
    nothing_ready,
    submit,
)

INITECH = Tenant("initech")


async def submit_many(store: Store, tenant: Tenant, number: int, **changes: object) -> None:
    for _ in range(number):
        await submit(store, tenant, **changes)


async def work(store: Store, turns: int, cost: dict[Tenant, float]) -> Counter[Tenant]:
    """Claim so many jobs, one after another, each of which costs its tenant's engine seconds; who was served."""
    served: Counter[Tenant] = Counter()
    for _ in range(turns):
        taken = await claim(store)
        taken.engine_seconds = cost[taken.job.tenant]
        await store.queue().commit(taken, TRANSCRIPT, USAGE)
        served[taken.job.tenant] += 1
    return served


async def claim_many(store: Store, number: int) -> Counter[Tenant]:
    return Counter([(await claim(store)).job.tenant for _ in range(number)])


class TestTheTurnOfTenants:
    async def test_a_newcomer_waits_behind_one_job_of_a_crowd_at_most(self, store: Store) -> None:
        await submit_many(store, ACME, 20)
        await claim_many(store, 5)
        await submit(store, GLOBEX)

        assert GLOBEX in await claim_many(store, 2)

    async def test_tenants_of_equal_cost_take_turns(self, store: Store) -> None:
        await submit_many(store, ACME, 10)
        await submit_many(store, GLOBEX, 10)

        assert await claim_many(store, 6) == {ACME: 3, GLOBEX: 3}

    async def test_it_is_engine_seconds_that_are_shared_and_not_jobs(self, store: Store) -> None:
        await submit_many(store, ACME, 60)
        await submit_many(store, GLOBEX, 60)
        served = await work(store, 60, {ACME: 30.0, GLOBEX: 10.0})

        assert abs(served[ACME] * 30.0 - served[GLOBEX] * 10.0) <= 2 * 30.0

    async def test_a_weight_is_a_share(self, store: Store) -> None:
        await store.terms().set(TenantTerms(GLOBEX, weight=3.0))
        await submit_many(store, ACME, 40)
        await submit_many(store, GLOBEX, 40)

        assert await claim_many(store, 40) == {ACME: 10, GLOBEX: 30}

    async def test_a_claim_knows_its_tenants_weight(self, store: Store) -> None:
        await store.terms().set(TenantTerms(GLOBEX, weight=2.5))
        await submit(store, ACME)
        await submit(store, GLOBEX)

        weights = {taken.job.tenant: taken.weight for taken in (await claim(store), await claim(store))}
        assert weights == {ACME: 1.0, GLOBEX: 2.5}

    async def test_idling_earns_nothing(self, store: Store) -> None:
        await submit_many(store, ACME, 40)
        await submit(store, GLOBEX)
        await work(store, 30, {ACME: 10.0, GLOBEX: 10.0})
        await submit_many(store, GLOBEX, 10)

        served = await claim_many(store, 8)
        assert abs(served[ACME] - served[GLOBEX]) <= 1

    async def test_a_tenant_that_comes_to_an_idle_queue_starts_where_the_others_stopped(self, store: Store) -> None:
        await submit_many(store, ACME, 5)
        await work(store, 5, {ACME: 60.0})
        assert await nothing_ready(store)
        await submit_many(store, GLOBEX, 8)
        await submit_many(store, ACME, 8)

        # All that ACME is charged on top is what its last job cost more than it was thought to.
        served = await claim_many(store, 12)
        assert served[ACME] >= 3

    async def test_what_a_job_has_really_cost_counts_and_not_what_it_was_thought_to(self, store: Store) -> None:
        await submit_many(store, ACME, 30)
        await submit_many(store, GLOBEX, 30)
        served = await work(store, 30, {ACME: 0.0, GLOBEX: 10.0})

        assert served[ACME] > 2 * served[GLOBEX]

    async def test_a_share_is_of_what_jobs_have_really_cost(self, store: Store) -> None:
        await store.terms().set(TenantTerms(GLOBEX, weight=4.0))
        await submit_many(store, ACME, 20)
        await submit_many(store, GLOBEX, 20)
        served = await work(store, 10, {ACME: 100.0, GLOBEX: 100.0})

        assert 7 <= served[GLOBEX] <= 9

    async def test_what_its_jobs_usually_cost_is_charged_to_a_tenant_in_advance(self, store: Store) -> None:
        await submit_many(store, ACME, 30)
        await work(store, 15, {ACME: 100.0})
        await submit_many(store, GLOBEX, 40)
        served = await claim_many(store, 30)

        assert served[ACME] <= 4

    async def test_leaving_the_turn_forgives_no_debt(self, store: Store) -> None:
        await submit_many(store, GLOBEX, 20)
        for _ in range(2):
            await submit(store, ACME)
            await work(store, 2, {ACME: 300.0, GLOBEX: 0.0})
        await submit_many(store, ACME, 5)

        assert await claim_many(store, 8) == {GLOBEX: 8}

    async def test_leaving_it_unserved_earns_nothing_either(self, store: Store) -> None:
        await store.tenant(ACME).cancel((await submit(store, ACME)).id)
        assert await nothing_ready(store)
        await submit_many(store, GLOBEX, 40)
        await work(store, 20, {GLOBEX: 10.0})
        await submit_many(store, ACME, 10)

        served = await claim_many(store, 8)
        assert abs(served[ACME] - served[GLOBEX]) <= 1

    async def test_what_is_given_back_to_a_tenant_that_was_away_is_no_credit(self, store: Store) -> None:
        await submit_many(store, ACME, 30)
        await work(store, 10, {ACME: 100.0})
        for taken in [await claim(store) for _ in range(20)]:
            await store.queue().cancel(taken)
        await submit_many(store, GLOBEX, 50)
        await work(store, 30, {GLOBEX: 100.0})
        await submit_many(store, ACME, 20)

        assert (await work(store, 12, {ACME: 100.0, GLOBEX: 100.0}))[GLOBEX] >= 5

    async def test_one_long_job_does_not_shut_a_tenant_out_that_was_away_since(self, store: Store) -> None:
        await submit(store, ACME)
        await work(store, 1, {ACME: 3600.0})
        await submit_many(store, GLOBEX, 40)
        await work(store, 12, {GLOBEX: 500.0})
        await submit_many(store, ACME, 5)

        assert (await work(store, 6, {ACME: 10.0, GLOBEX: 500.0}))[ACME] >= 2

    async def test_a_high_priority_goes_first_among_its_own_and_passes_no_other_tenant(self, store: Store) -> None:
        await submit_many(store, ACME, 4, priority="low")
        await submit_many(store, GLOBEX, 4, priority="high")

        assert await claim_many(store, 4) == {ACME: 2, GLOBEX: 2}

    async def test_a_job_that_comes_back_keeps_its_age(self, store: Store) -> None:
        first = await submit(store)
        await submit_many(store, ACME, 2)
        await store.queue().give_back(await claim(store))

        assert (await claim(store)).job.id == first.id


class TestLimitsOfTenants:
    @every_settler
    async def test_no_more_run_than_may_and_an_end_makes_room(self, store: Store, settle: Settle) -> None:
        await store.terms().set(TenantTerms(ACME, max_running=2))
        await submit_many(store, ACME, 4)
        running = [await claim(store), await claim(store)]
        assert await nothing_ready(store)

        await settle(store.queue(), running.pop())
        await claim(store)
        assert await nothing_ready(store)

    async def test_a_lost_worker_makes_room(self, store: Store) -> None:
        await store.terms().set(TenantTerms(ACME, max_running=1))
        await submit_many(store, ACME, 2)
        await claim(store)
        await store.queue().void_leases()

        await claim(store)
        assert await nothing_ready(store)

    async def test_a_deleted_job_makes_room(self, store: Store) -> None:
        await store.terms().set(TenantTerms(ACME, max_running=1))
        await submit_many(store, ACME, 2)
        await store.tenant(ACME).delete((await claim(store)).job.id)

        await claim(store)
        assert await nothing_ready(store)

    async def test_who_is_at_its_limit_holds_nobody_up(self, store: Store) -> None:
        await store.terms().set(TenantTerms(ACME, max_running=0))
        await submit_many(store, ACME, 2)
        await submit(store, GLOBEX)

        assert (await claim(store)).job.tenant == GLOBEX
        assert await nothing_ready(store)

    async def test_a_higher_limit_holds_from_the_next_claim_on(self, store: Store) -> None:
        await store.terms().set(TenantTerms(ACME, max_running=1))
        await submit_many(store, ACME, 3)
        await claim(store)
        assert await nothing_ready(store)

        await store.terms().set(TenantTerms(ACME, max_running=2))
        await claim(store)
        assert await nothing_ready(store)

    async def test_a_lower_limit_takes_nothing_away_and_lets_nothing_more_begin(self, store: Store) -> None:
        await submit_many(store, ACME, 3)
        taken = [await claim(store), await claim(store)]
        await store.terms().set(TenantTerms(ACME, max_running=1))
        assert await nothing_ready(store)

        await store.queue().commit(taken[0], TRANSCRIPT, USAGE)
        assert await nothing_ready(store)
        await store.queue().commit(taken[1], TRANSCRIPT, USAGE)
        await claim(store)

    async def test_tenants_that_are_passed_over_keep_their_turn(self, store: Store) -> None:
        for tenant in (ACME, GLOBEX, INITECH):
            await submit_many(store, tenant, 2)
        besides = {ACME}

        async def claim_besides() -> Claim | None:
            return await store.queue().claim(replica="one", lease_seconds=LEASE, besides=besides)

        for _ in range(4):
            taken = await claim_besides()
            assert taken is not None
            assert taken.job.tenant != ACME
        assert await claim_besides() is None
        assert await claim_many(store, 2) == {ACME: 2}

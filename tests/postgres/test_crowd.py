"""Fairness at the claim, in a crowd: who is next does not depend on how many wait, only on what each has cost."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from urllib.parse import urlsplit

import asyncpg
import pytest

from bench.backlog import CROWDED, fill
from pipeline.claim import Claim
from pipeline.jobs import Tenant
from pipeline.store import JobQueue, TenantTerms
from pipeline.store.postgres import PostgresStore, migrate
from tests.conformance.store_suite.making import TRANSCRIPT, USAGE, claim, submit
from tests.postgres.conftest import at

pytestmark = pytest.mark.postgres

NEWCOMER = Tenant("tenant-new")  # by name behind all others: a tie goes against it
CLAIMS = 600
# What a job of each costs the engine, and its weight. Their shares of the jobs are unequal, too.
FIVE = {"a": (1.0, 1.0), "b": (2.0, 1.0), "c": (5.0, 2.0), "d": (12.0, 1.0), "e": (30.0, 4.0)}
DEAL = """
    UPDATE antiphon.jobs SET tenant_id = substr('aaaaaaaabbbbccde', 1 + (seq % 16)::integer, 1) WHERE tenant_id = $1"""

crowds = pytest.mark.parametrize("jobs", [50_000, pytest.param(1_000_000, marks=pytest.mark.full)])


@pytest.fixture
async def crowd(empty: str) -> AsyncIterator[PostgresStore]:
    """A database of its own: emptying one of a million jobs takes longer than dropping it."""
    await migrate(empty)
    async with PostgresStore(empty) as store:
        yield store


@pytest.fixture
async def boss(server: str, empty: str) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """A superuser in that database."""
    connection = await asyncpg.connect(at(server, urlsplit(empty).path.removeprefix("/")))
    yield connection
    await connection.close()


async def work(queue: JobQueue, taken: Claim, engine_seconds: float) -> None:
    taken.engine_seconds = engine_seconds
    await queue.commit(taken, TRANSCRIPT, USAGE)


@crowds
async def test_a_newcomer_is_claimed_within_two_claims_however_many_wait(
    crowd: PostgresStore, boss: asyncpg.Connection[asyncpg.Record], jobs: int
) -> None:
    await fill(boss, jobs=jobs, tenants=jobs // 100)
    before = [(await claim(crowd)).job.tenant for _ in range(20)]
    assert before[0] == CROWDED
    assert len(set(before)) == 20  # half of all jobs are worth one turn
    await submit(crowd, NEWCOMER)
    assert NEWCOMER in [(await claim(crowd)).job.tenant for _ in range(2)]


@crowds
async def test_tenants_of_unequal_load_and_cost_share_the_engine_by_weight_while_all_have_work(
    crowd: PostgresStore, boss: asyncpg.Connection[asyncpg.Record], jobs: int
) -> None:
    for tenant, (_, weight) in FIVE.items():
        await crowd.terms().set(TenantTerms(Tenant(tenant), weight=weight))
        await submit(crowd, Tenant(tenant))  # brings it into the turn
    await fill(boss, jobs=jobs, tenants=1)
    await boss.execute(DEAL, CROWDED)
    await boss.execute("DELETE FROM antiphon.tenants WHERE tenant_id = $1", CROWDED)
    had = dict.fromkeys(FIVE, 0.0)
    for _ in range(CLAIMS):
        taken = await claim(crowd)
        seconds, weight = FIVE[taken.job.tenant]
        await work(crowd.queue(), taken, seconds)
        had[taken.job.tenant] += seconds / weight
    assert jain(had) >= 0.95, had


@crowds
async def test_a_tenant_that_is_alone_is_given_everything_first_come_first_served(
    crowd: PostgresStore, boss: asyncpg.Connection[asyncpg.Record], jobs: int
) -> None:
    await fill(boss, jobs=jobs, tenants=1)
    first = await boss.fetch("SELECT id FROM antiphon.jobs ORDER BY seq LIMIT 200")
    taken = [await claim(crowd) for _ in first]
    assert [one.job.id for one in taken] == [row["id"] for row in first]


def jain(shares: Mapping[str, float]) -> float:
    """1 where all have the same, 1/n where one has it all (Jain, Chiu and Hawe, 1984)."""
    return sum(shares.values()) ** 2 / (len(shares) * sum(share**2 for share in shares.values()))

"""What the engine did for a claim is charged to it, whether or not anybody still waits for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import anyio
import pytest

from pipeline.claim import Claim
from pipeline.jobs import Job, Tenant
from stages.engines.batch import Ask, Batch
from stages.engines.fairness import Account
from stages.engines.room import Asker
from tests.stages.asking import Watched, room_of, window
from tests.stages.waiting import until

Make = Callable[..., Job]


@pytest.fixture
def claims(make_job: Make) -> tuple[Claim, Claim]:
    return Claim(make_job()), Claim(replace(make_job(), tenant=Tenant("globex")), weight=4.0)


async def test_a_batch_is_shared_by_the_claims_whose_windows_it_held(claims: tuple[Claim, Claim]) -> None:
    one, other = claims
    engine = Watched(window_seconds=0.01, max_batch=4)
    room = room_of(engine)
    async with room.open(), anyio.create_task_group() as group:
        engine.gate.clear()
        group.start_soon(room.ask, window(0), Asker.of(one, "0:0"))
        await until(lambda: len(engine.batches) == 1)
        for n in range(1, 4):
            group.start_soon(room.ask, window(n), Asker.of(other if n == 3 else one, "0:0"))
        await until(lambda: room.statistics().ready == 3)
        assert (one.engine_seconds, other.engine_seconds) == (0.0, 0.0)
        engine.gate.set()
    assert engine.sizes == [1, 3]
    assert one.engine_seconds + other.engine_seconds == pytest.approx(room.statistics().busy_seconds)
    assert 0.0 < 2 * other.engine_seconds < one.engine_seconds  # which had the first batch besides


async def test_a_window_that_nobody_waits_for_any_more_is_charged_for_as_long_as_it_ran(
    claims: tuple[Claim, Claim],
) -> None:
    claim, _ = claims
    engine = Watched(window_seconds=0.01)
    room = room_of(engine)
    async with room.open(), anyio.create_task_group() as group:
        engine.gate.clear()
        group.start_soon(room.ask, window(), Asker.of(claim, "0:0"))
        await until(lambda: len(engine.batches) == 1)
        group.cancel_scope.cancel()
        engine.gate.set()
    await until(lambda: room.statistics().batches == 1)
    assert claim.engine_seconds == pytest.approx(room.statistics().busy_seconds)
    assert claim.engine_seconds > 0.0


async def test_whoever_leaves_is_charged_at_once(claims: tuple[Claim, Claim]) -> None:
    claim, _ = claims
    engine = Watched(window_seconds=0.01)
    room = room_of(engine)
    async with room.open():
        engine.gate.clear()
        async with anyio.create_task_group() as group:
            group.start_soon(room.ask, window(), Asker.of(claim, "0:0"))
            await until(lambda: len(engine.batches) == 1)
            group.cancel_scope.cancel()
        at_once = claim.engine_seconds
        engine.gate.set()
        await until(lambda: room.statistics().batches == 1)
    assert 0.0 < at_once < claim.engine_seconds == pytest.approx(room.statistics().busy_seconds)


def test_what_was_charged_at_once_is_not_charged_again(claims: tuple[Claim, Claim]) -> None:
    one, other = claims
    shares = ((one, 3.0), (other, 1.0), (one, 4.0))
    asks = [Ask(account=Account(), job=n, claim=claim, cost=cost) for n, (claim, cost) in enumerate(shares)]
    batch = Batch(asks)
    batch.leave(asks[0], 8.0)
    assert (one.engine_seconds, other.engine_seconds) == (3.0, 0.0)
    batch.charge(16.0)
    assert (one.engine_seconds, other.engine_seconds) == (14.0, 2.0)
    assert [ask.seconds for ask in asks] == [6.0, 2.0, 8.0]


def test_a_claim_asks_with_the_weight_of_its_tenant(claims: tuple[Claim, Claim]) -> None:
    one, other = (Asker.of(claim, "0:0") for claim in claims)
    assert (one.weight, other.weight) == (1.0, 4.0)
    assert (one.tenant, other.tenant) == ("acme", "globex")

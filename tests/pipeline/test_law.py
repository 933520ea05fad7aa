"""Every claim taken ends exactly once, whatever happens to it and to the chain."""

from __future__ import annotations

import random
from collections.abc import Sequence

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

import pipeline.chain
from pipeline.chain import Chain
from pipeline.claim import Claim, Failure, Why
from pipeline.observer import Ending
from tests.pipeline.rig import Cut, Fetch, Hear, Join, Ledger, Plan, Taker, Writer

REASONS = [None, None, None, Why.CANCELLED, Why.LEASE_LOST]
PLANS = st.builds(
    Plan,
    tracks=st.integers(0, 4),
    breaks_in=st.sampled_from([None, None, "fetch", "cut", "hear", "join"]),
    unwritable=st.sampled_from([None, None, None, "result", "anything"]),
)


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline.chain, "PAUSES", (0.0005, 0.001))


@pytest.mark.parametrize(
    "backend", [("asyncio", {}), ("trio", {"clock": MockClock(autojump_threshold=0)})], ids=["asyncio", "trio"]
)
@pytest.mark.parametrize("how", ["run", "drain", "stop", "cancel"])
@given(
    plans=st.lists(PLANS, max_size=8),
    crashes=st.sets(st.integers(0, 7), max_size=3),
    sink_breaks=st.integers(0, 2),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=40, deadline=None)
def test_every_claim_taken_ends_exactly_once(
    backend: tuple[str, dict[str, object]], how: str, plans: list[Plan], crashes: set[int], sink_breaks: int, seed: int
) -> None:
    name, options = backend
    if "clock" in options:
        options = {"clock": MockClock(autojump_threshold=0)}
    anyio.run(_law, how, plans, crashes, sink_breaks, random.Random(seed), backend=name, backend_options=options)


async def _law(how: str, plans: Sequence[Plan], crashes: set[int], sink_breaks: int, chance: random.Random) -> None:
    taker, ledger = Taker(plans, set(crashes)), Ledger()
    writer = Writer(sink_breaks, taker)
    chain = (
        Chain(taker, observe=ledger)
        .then(Fetch(), workers=2, ahead=1)
        .then(Cut())
        .then(Hear(), workers=2, ahead=1)
        .then(Join())
        .sink(writer, workers=2)
    )
    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            group.start_soon(chain.run)
            await _meddle(taker, chance)
            if how == "drain":
                chain.drain()
            elif how == "stop":
                chain.stop()
            elif how == "cancel":
                group.cancel_scope.cancel()
    _check(taker, writer, ledger)
    if how == "run":
        assert len(taker.taken) == len(plans)


async def _meddle(taker: Taker, chance: random.Random) -> None:
    """Abandon some claims, for random reasons, at random moments."""
    for _ in range(chance.randint(0, 12)):
        await anyio.sleep(0.001 * chance.random())
        if taker.taken and (why := chance.choice(REASONS)):
            chance.choice(taker.taken).abandon(why)


def _check(taker: Taker, writer: Writer, ledger: Ledger) -> None:
    assert {claim: len(endings) for claim, endings in ledger.endings.items()} == dict.fromkeys(taker.taken, 1)
    assert taker.closed == dict.fromkeys(taker.taken, 1)
    for claim, plan in zip(taker.taken, taker.plans, strict=False):
        _check_written(claim, plan, writer.written.get(claim, []), ledger.endings[claim][0])


def _check_written(claim: Claim, plan: Plan, written: list[object], ending: Ending) -> None:
    assert len(written) == (0 if ending is Ending.FORFEITED else 1)
    if ending is Ending.RESULT:
        assert written == [list(range(plan.tracks))], "a track was lost or came twice"
        assert plan.unwritable is None
        assert plan.breaks_in is None or (plan.breaks_in == "cut" and plan.tracks < 2)
    elif written:
        assert isinstance(written[0], Failure)
        assert plan.unwritable != "anything"

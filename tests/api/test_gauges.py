"""What is known of the queue between two looks, and while nobody can look."""

from __future__ import annotations

import pytest

from api.gauges import QueueGauges
from pipeline.jobs import JobRequest, Tenant
from pipeline.store import QueueHealth, Unavailable
from pipeline.store.memory import MemoryJobQueue, MemoryStore
from tests.api.visiting import URL


class Leaving(MemoryJobQueue):
    """A queue whose database may be away."""

    away = False

    async def health(self) -> QueueHealth:
        if self.away:
            raise Unavailable
        return await super().health()


@pytest.fixture
def queue(store: MemoryStore) -> Leaving:
    return Leaving(store)


async def test_a_number_that_was_true_once_is_forgotten_when_the_database_goes_away_and_known_again_after(
    store: MemoryStore, queue: Leaving
) -> None:
    gauges = QueueGauges(queue)
    assert gauges.health is None
    for away, known in ((False, True), (True, False), (False, True)):
        queue.away = away
        await store.tenant(Tenant("acme")).submit(JobRequest(media_url=URL))
        await gauges.look()
        assert (gauges.health is not None) is known
    assert gauges.health is not None
    assert gauges.health.pending == 3

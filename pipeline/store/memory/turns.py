"""The turn: which tenant is served next, and which of its jobs. The model of what PostgreSQL does with rows and locks.

Every tenant has a cost, its engine seconds over its weight, and of those that are ready the one of least cost is next:

- **ready** is a tenant that has a job to claim and may run more than it does. ``wake`` makes it so, whenever one of the
  two may have come to be; ``next`` finds out that it is no longer, and only then is it taken out of the turn.
- **charged** it is when it is served, with what its jobs usually cost, so that claims in a row are not all its own.
  What a job has really cost is a charge that its tenant's next turn takes in.
- **no credit for idling**: who comes back starts where the others are, not with all the time that it has not used. Its
  old charges are taken in before, not on top: neither what they give back nor what they ask for is left over.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from pipeline.jobs import PRIORITIES, Tenant
from pipeline.store import TenantTerms
from pipeline.store.memory.rows import JobRow

FIRST_SECONDS: Final = 10.0  # what a job is thought to cost of whose tenant nothing is known
NEWS_SHARE: Final = 0.2  # of the newest jobs in what is usual: five or so make it forget the first guess


@dataclass(frozen=True, slots=True)
class Charge:
    """What a job has cost in engine ``seconds``; ``delta`` is that less what was charged in advance."""

    delta: float
    seconds: float


@dataclass(slots=True)
class Place:
    """A tenant's place in the turn."""

    terms: TenantTerms
    ready: bool = False
    cost: float = 0.0
    usual_seconds: float = FIRST_SECONDS
    charges: list[Charge] = field(default_factory=list)

    @property
    def order(self) -> tuple[float, Tenant]:
        return self.cost, self.terms.tenant

    def take_in(self) -> None:
        """Settle the charges."""
        if not self.charges:
            return
        mean = sum(charge.seconds for charge in self.charges) / len(self.charges)
        self.usual_seconds += NEWS_SHARE * (mean - self.usual_seconds)
        self.cost += sum(charge.delta for charge in self.charges) / self.terms.weight
        self.charges.clear()


class Turns:
    """``max_running``: of a tenant whose terms do not say."""

    def __init__(self, rows: Mapping[UUID, JobRow], max_running: int | None) -> None:
        self._rows, self._max_running = rows, max_running
        self.places: dict[Tenant, Place] = {}

    def place(self, tenant: Tenant) -> Place:
        return self.places.setdefault(tenant, Place(TenantTerms(tenant)))

    def wake(self, *tenants: Tenant) -> None:
        """There may be a job to claim, or room to run one. What these owe is taken in before they come back."""
        places = [self.place(tenant) for tenant in set(tenants)]
        away = [place for place in places if not place.ready and self.head(place.terms.tenant)]
        for place in away:
            place.take_in()
        level = self._level()
        for place in away:
            place.cost, place.ready = max(place.cost, level), True

    def next(self, besides: Collection[Tenant]) -> tuple[Place, JobRow] | None:
        """Whose turn it is, none of ``besides``, and its head job."""
        for place in self._in_turn(besides):
            place.take_in()
            if (head := self.head(place.terms.tenant)) and self.has_room(place):
                return place, head
            place.ready = False
        return None

    def next_alone(self, *, ready_before: float) -> tuple[Place, JobRow] | None:
        """Of the jobs that have lost a worker, and whose tenant may run one more, that which is ready for longest."""
        lost = [row for row in self._rows.values() if row.claimable and row.job.losses and row.ready_at <= ready_before]
        ready = [(self.place(row.job.tenant), row) for row in lost if self.has_room(self.place(row.job.tenant))]
        if not ready:
            return None
        place, row = min(ready, key=lambda found: found[1].ready_at)
        place.take_in()
        return place, row

    def served(self, place: Place) -> None:
        """A job of its has been claimed: charge it, and take it out of the turn if that was all."""
        place.cost += place.usual_seconds / place.terms.weight
        place.ready = self.may_run(place)

    def head(self, tenant: Tenant) -> JobRow | None:
        """The oldest of the highest priority, without those that have lost a worker; rows are in order of coming."""
        rows = (row for row in self._rows.values() if row.job.tenant == tenant)
        waiting = (row for row in rows if row.claimable and not row.job.losses)
        return max(waiting, key=lambda row: PRIORITIES[row.job.request.priority], default=None)

    def running(self, tenant: Tenant) -> int:
        return sum(row.job.tenant == tenant and row.lease is not None for row in self._rows.values())

    def has_room(self, place: Place) -> bool:
        limit = self._max_running if place.terms.max_running is None else place.terms.max_running
        return limit is None or self.running(place.terms.tenant) < limit

    def may_run(self, place: Place) -> bool:
        return self.head(place.terms.tenant) is not None and self.has_room(place)

    def ahead(self, tenant: Tenant) -> int | None:
        """How many tenants are ready and come before this one; ``None`` where this one is not ready itself."""
        own = self.places[tenant]
        return sum(place.ready and place.order < own.order for place in self.places.values()) if own.ready else None

    def _in_turn(self, besides: Collection[Tenant]) -> Iterator[Place]:
        """Each time the first of those that are ready; who has been served no longer comes again within one claim."""
        ready = [place for place in self.places.values() if place.ready and place.terms.tenant not in besides]
        yield from sorted(ready, key=lambda place: place.order)

    def _level(self) -> float:
        """Where a newcomer starts: beside the first of those who wait, or after the last where nobody does."""
        ready = [place.cost for place in self.places.values() if place.ready]
        return min(ready) if ready else max((place.cost for place in self.places.values()), default=0.0)

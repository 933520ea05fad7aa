"""Random courses of events, told so that two stores can be compared: jobs and claims go by number, times by order.

Every time that is waited for is 0, 20 or 60 seconds and every time that passes 40 or 100, so that a store whose clock
does not stand still between the steps comes to the same as one whose clock does, if it is not twenty seconds late.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from uuid import UUID

from hypothesis import strategies as st

from pipeline.claim import Claim
from pipeline.errors import AntiphonError
from pipeline.jobs import Job, JobStatus, Problem, Tenant
from pipeline.settings import QueueSettings
from pipeline.store import Fenced, IdempotencyKey, KeyUsed, Listing, Store, TenantTerms
from tests.conformance.store_suite.making import (
    ACME,
    GLOBEX,
    LEASE,
    PROBLEM,
    TRANSCRIPT,
    USAGE,
    Account,
    Books,
    PassTime,
    a_request,
    due,
)

TENANTS = (ACME, GLOBEX, Tenant("initech"))
HOOK = "https://app.test/hook"
SETTINGS = QueueSettings(max_attempts=2, max_losses=2)  # soon reached


@dataclass(frozen=True, slots=True)
class Step:
    """A method of ``World``, and what it is called with."""

    act: str
    arguments: tuple[object, ...]


_tenant = st.sampled_from(TENANTS)
_owner = st.sampled_from([None, None, None, None, *TENANTS])  # None: whose job it is
_ago = st.sampled_from([0, 0, 0, 0, 0, 1, 1, 2, 3, 5])  # so many before the last one, which may have ended long since
_cost = st.sampled_from([0.0, 2.5, 10.0, 45.0])
_pause = st.sampled_from([None, 0.0, 20.0, 20.0])
_limit = st.sampled_from([None, None, 0, 1, 2])
_key = st.sampled_from([IdempotencyKey("a", b"1"), IdempotencyKey("a", b"2"), IdempotencyKey("b", b"1")])
_priority = st.sampled_from(["low", "normal", "high"])
_retention = st.sampled_from([None, None, 0, 60])

_ACTS: dict[str, tuple[int, st.SearchStrategy[tuple[object, ...]]]] = {
    "submit": (12, st.tuples(_tenant, _priority, st.booleans(), _retention, st.none() | _key)),
    "claim": (14, st.tuples(st.just(frozenset()) | st.frozensets(_tenant, max_size=2))),
    "claim_alone": (6, st.tuples(st.booleans())),
    "begin": (3, st.tuples(_ago)),
    "commit": (4, st.tuples(_ago, _cost)),
    "fail": (8, st.tuples(_ago, _cost, _pause)),
    "give_back": (2, st.tuples(_ago, _cost)),
    "stop": (2, st.tuples(_ago, _cost)),
    "renew": (2, st.tuples()),
    "report": (3, st.tuples(_ago, st.floats(0, 1), _cost)),
    "keep": (2, st.tuples(_ago)),
    "kept": (1, st.tuples(_ago)),
    "cancel": (4, st.tuples(_owner, _ago)),
    "delete": (2, st.tuples(_owner, _ago)),
    "made_with": (1, st.tuples(_tenant, _key)),
    "wait": (4, st.tuples(st.sampled_from([40.0, 100.0]))),
    "tend": (8, st.tuples(st.sampled_from([0.0, 40.0, 100.0]))),
    "lose": (6, st.tuples(_ago)),
    "void": (1, st.tuples()),
    "sweep": (1, st.tuples()),
    "deliver": (2, st.tuples(_pause)),
    "terms": (2, st.tuples(_tenant, st.sampled_from([0.5, 1.0, 3.0]), _limit, _limit)),
}
"""Every step with how often it comes beside the others, and what it may be given."""

_STEPS = st.sampled_from([act for act, (often, _) in _ACTS.items() for _ in range(often)]).flatmap(
    lambda act: st.builds(Step, st.just(act), _ACTS[act][1])
)
COURSES = st.lists(_STEPS, min_size=20, max_size=60)
"""About thirty steps, seldom more than forty."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A job as it stands at the door, without what no two stores have alike."""

    number: int
    status: JobStatus
    attempt: int
    losses: int
    fraction: float
    stage: str
    started: bool
    completed: bool
    waits: bool
    error: Problem | None
    last_error: Problem | None

    @property
    def claimable(self) -> bool:
        return self.status is JobStatus.PENDING and not self.waits


class NothingYet(Exception):
    """There is no job, or no claim, to do it with."""


class World:
    """A store, and all that ever came of it. Every method is a step and gives what it answered."""

    def __init__(self, store: Store, pass_time: PassTime, books: Books) -> None:
        self.store, self.pass_time, self.books = store, pass_time, books
        self.jobs: list[Job] = []
        self.claims: list[Claim] = []
        self._ends: dict[int, JobStatus] = {}

    async def do(self, step: Step) -> object:
        try:
            return await getattr(self, step.act)(*step.arguments)
        except (AntiphonError, Fenced, KeyUsed, NothingYet) as refusal:
            return type(refusal).__name__

    async def submit(
        self, tenant: Tenant, priority: str, callback: bool, retention: int | None, key: IdempotencyKey | None
    ) -> None:
        request = a_request(priority=priority, callback_url=HOOK if callback else None, retention_seconds=retention)
        self.jobs.append(await self.store.tenant(tenant).submit(request, key=key))

    async def made_with(self, tenant: Tenant, key: IdempotencyKey) -> object:
        job = await self.store.tenant(tenant).made_with(key)
        return job and self._number(job.id)

    async def cancel(self, tenant: Tenant | None, ago: int) -> object:
        job = self._job(ago)
        return self._seen(await self.store.tenant(tenant or job.tenant).cancel(job.id))

    async def delete(self, tenant: Tenant | None, ago: int) -> None:
        job = self._job(ago)
        await self.store.tenant(tenant or job.tenant).delete(job.id)

    async def claim(self, besides: AbstractSet[Tenant]) -> object:
        return self._taken(await self.store.queue().claim(replica="one", lease_seconds=LEASE, besides=besides))

    async def claim_alone(self, idle: bool) -> object:
        return self._taken(await self.store.queue().claim_alone(replica="one", lease_seconds=LEASE, idle=idle))

    def _taken(self, taken: Claim | None) -> object:
        if taken is None:
            return None
        self.claims.append(taken)
        return self._seen(taken.job), taken.weight, taken.resumes

    async def begin(self, ago: int) -> None:
        await self.store.queue().begin(self._claim(ago))

    async def renew(self) -> object:
        renewal = await self.store.queue().renew(self.claims, lease_seconds=LEASE)
        tokens = [claim.token for claim in self.claims]
        return [sorted(map(tokens.index, part)) for part in (renewal.kept, renewal.cancelled)]

    async def report(self, ago: int, part: float, cost: float) -> None:
        claim = self._claim(ago, cost)
        claim.advance("transcribing", part)
        await self.store.queue().report([claim])

    async def keep(self, ago: int) -> None:
        await self.store.queue().keep(self._claim(ago), {bytes([len(self.claims) % 3]) * 16: f'"{len(self.claims)}"'})

    async def kept(self, ago: int) -> object:
        return await self.store.queue().kept(self._claim(ago))

    async def commit(self, ago: int, cost: float) -> None:
        await self.store.queue().commit(self._claim(ago, cost), TRANSCRIPT, USAGE)

    async def fail(self, ago: int, cost: float, retry_in: float | None) -> None:
        await self.store.queue().fail(self._claim(ago, cost), PROBLEM, retry_in=retry_in)

    async def give_back(self, ago: int, cost: float) -> None:
        await self.store.queue().give_back(self._claim(ago, cost))

    async def stop(self, ago: int, cost: float) -> None:
        await self.store.queue().cancel(self._claim(ago, cost))

    async def wait(self, seconds: float) -> None:
        await self.pass_time(seconds)

    async def tend(self, after: float) -> object:
        await self.wait(after)
        return await self.store.queue().tend()

    async def lose(self, ago: int) -> object:
        await self.begin(ago)
        return await self.void()

    async def void(self) -> object:
        return await self.store.queue().void_leases()

    async def sweep(self) -> object:
        swept = await self.store.queue().sweep()
        assert swept.repaired == 0
        return swept

    async def deliver(self, retry_in: float | None) -> object:
        deliveries = await due(self.store)
        for delivery in deliveries:
            await self.store.outbox().tried(delivery, seconds=0.5, status=503, error=None, retry_in=retry_in)
        return sorted((self._number(delivery.job), delivery.tenant, delivery.tries) for delivery in deliveries)

    async def terms(self, tenant: Tenant, weight: float, max_running: int | None, max_pending: int | None) -> object:
        await self.store.terms().set(TenantTerms(tenant, weight, max_running, max_pending))
        return await self.store.terms().list()

    async def view(self) -> list[Seen]:
        """Every job that can be seen, by tenant, the newest first."""
        jobs = [await self.store.tenant(tenant).list(Listing(limit=200)) for tenant in TENANTS]
        return [self._seen(job) for page in jobs for job in page]

    async def standings(self) -> list[tuple[int, int, int | None]]:
        standings = [await self.store.tenant(tenant).standing() for tenant in TENANTS]
        return [(standing.pending, standing.running, standing.ahead) for standing in standings]

    async def costs(self) -> list[tuple[int, int, str, float, float]]:
        """The books, by job; how long the last attempt took in the steps that time takes here."""
        return sorted(
            (self._number(row.job), row.attempt, row.outcome, row.engine_seconds, row.processing_seconds // 20)
            for row in await self.books.usage()
        )

    async def accounts(self) -> list[Account]:
        """To the millionth: two machines add in two orders."""
        return [
            replace(account, cost=round(account.cost, 6), usual_seconds=round(account.usual_seconds, 6))
            for account in await self.books.accounts()
        ]

    async def check(self) -> None:
        """What holds in every store at every moment."""
        seen = await self.view()
        assert await self.books.strays() == 0
        for job in seen:
            assert job.attempt - job.losses <= SETTINGS.max_attempts
            assert job.losses <= SETTINGS.max_losses
            assert job.waits <= (job.status is JobStatus.PENDING)
            before = self._ends.setdefault(job.number, job.status) if job.status.ended else None
            assert self._ends.get(job.number) == before
        ends = [(number, outcome) for number, _, outcome, *_ in await self.costs()]
        assert dict(ends).keys() >= self._ends.keys()
        assert len(dict(ends)) == len(ends)
        assert {(job.number, str(job.status)) for job in seen if job.status.ended} <= set(ends)
        assert not {job.number for job in seen if not job.status.ended} & dict(ends).keys()

    async def serve(self) -> None:
        """Run whatever may run, to its end: afterwards nobody has work who might run more than it does."""
        while await self.claim(frozenset()) or await self.claim_alone(idle=True):
            await self.commit(0, 10.0)
        limits = {terms.tenant: terms.max_running for terms in await self.store.terms().list()}
        waiting = {self.jobs[job.number].tenant for job in await self.view() if job.claimable}
        for tenant in waiting:
            limit = limits[tenant]
            assert limit is not None
            assert (await self.store.tenant(tenant).standing()).running >= limit

    def _job(self, ago: int) -> Job:
        if not self.jobs:
            raise NothingYet
        return self.jobs[-1 - ago % len(self.jobs)]

    def _claim(self, ago: int, cost: float | None = None) -> Claim:
        if not self.claims:
            raise NothingYet
        claim = self.claims[-1 - ago % len(self.claims)]
        claim.engine_seconds = claim.engine_seconds if cost is None else cost
        return claim

    def _number(self, job_id: UUID) -> int:
        return next(number for number, job in enumerate(self.jobs) if job.id == job_id)

    def _seen(self, job: Job) -> Seen:
        return Seen(
            number=self._number(job.id),
            status=job.status,
            attempt=job.attempt,
            losses=job.losses,
            fraction=job.progress.fraction,
            stage=job.progress.stage,
            started=job.started_at is not None,
            completed=job.completed_at is not None,
            waits=job.next_attempt_at is not None,
            error=job.error,
            last_error=job.last_error,
        )

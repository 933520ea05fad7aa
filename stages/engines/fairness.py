"""Who is next: fair between tenants in engine seconds, then by priority, then by age. It neither waits nor sleeps.

Every tenant has an account of the engine seconds it has had, over its weight; the one that has had least goes first. A
window is charged what it is expected to cost when it is picked, and what it did cost when its batch has ended.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from heapq import heapify, heappop, heappush, heapreplace
from itertools import count
from typing import Any, Final, Generic, TypeVar

LEAST_SECONDS: Final = 0.001
"""What a window is expected to cost at least: tenants take turns though an engine says that windows cost nothing."""

OVERDUE_SECONDS: Final = 60.0
"""A window that has waited so long in a line goes first, whatever its tenant, key and priority."""

OVERDUE_SHARE: Final = 0.05
"""So much of the engine seconds for batches that begin with an overdue window: under a load that makes every window old
they would leave nothing to fairness."""


@dataclass(slots=True, eq=False)
class Account:
    """What one tenant has had of the engine, and what it will have had soon.

    ``served``: measured engine seconds over the tenant's weight. ``running``, ``ready``: engine seconds expected of its
    windows that run and of those prepared; ``usual``: of the last one. ``waiting``: how many windows are not picked
    yet. ``inside``: how many hold a place in the room.
    """

    weight: float = 1.0
    served: float = 0.0
    running: float = 0.0
    ready: float = 0.0
    usual: float = LEAST_SECONDS
    waiting: int = 0
    inside: int = 0

    @property
    def had(self) -> float:
        """Its rank for a lane: least first."""
        return self.served + self.running / self.weight

    @property
    def claim(self) -> float:
        """Its rank for a place in the room: least first. What waits inside is as good as had."""
        return self.had + self.ready / self.weight


@dataclass(slots=True, eq=False, kw_only=True)
class Entry:
    """A window in the lines. ``cost``: engine seconds it is expected to take, 0 until it is prepared; ``seconds``: that
    it has taken so far."""

    account: Account
    job: Hashable
    priority: int = 0
    key: Hashable = None
    cost: float = 0.0
    seconds: float = 0.0
    number: int = 0
    since: float = 0.0

    @property
    def worth(self) -> float:
        """Engine seconds, by what is known of it yet."""
        return self.cost or self.account.usual

    def expect(self, seconds: float) -> None:
        """It is prepared, and will take about so long."""
        self.cost = self.account.usual = max(LEAST_SECONDS, seconds)
        self.account.ready += self.cost

    def leave(self) -> None:
        """It waits no more: it is picked, or nobody wants it."""
        self.account.waiting -= 1
        self.account.ready -= self.cost

    def pick(self) -> None:
        self.leave()
        self.account.running += self.cost

    def settle(self) -> None:
        """Its batch has ended: what it took stands in place of what was expected."""
        self.account.running -= self.cost
        self.account.served += self.seconds / self.account.weight

    def wait_again(self) -> None:
        """Its batch has ended without an answer to it."""
        self.seconds = 0.0
        self.account.waiting += 1
        self.account.ready += self.cost


E = TypeVar("E", bound=Entry)


class Accounts:
    """One a tenant. No credit for idling: who comes back starts level with the least of those that wait."""

    def __init__(self) -> None:
        self._of: dict[Hashable, Account] = {}

    def __len__(self) -> int:
        return len(self._of)

    def of(self, tenant: Hashable, weight: float) -> Account:
        """The account of a tenant one more window of which begins to wait."""
        account = self._of.get(tenant)
        if account is None or not account.waiting:
            level = self._level()
            self._forget(level)
            account = self._of.setdefault(tenant, Account())
            account.served = max(account.served, level)
        account.weight = weight
        account.waiting += 1
        return account

    def _level(self) -> float:
        """Seconds of the least served that waits; of the most served where none does.

        Without what is only expected of windows that run: were that too much, its correction would put the others in
        front of who has just come.
        """
        waiting = [account.served for account in self._of.values() if account.waiting]
        return min(waiting) if waiting else max((account.served for account in self._of.values()), default=0.0)

    def _forget(self, level: float) -> None:
        """Accounts without a window that would be raised to ``level`` anyway."""
        gone = [tenant for tenant, of in self._of.items() if not (of.waiting or of.inside) and of.had <= level]
        for tenant in gone:
            del self._of[tenant]


class _Queue(Generic[E]):
    """What waits of one tenant under one key: by priority, then age. A job can be passed over for a while."""

    def __init__(self) -> None:
        self._jobs: dict[tuple[int, Hashable], OrderedDict[E, None]] = {}
        # (−priority, number of the oldest when last looked at, windows of one job); an empty one is on its way out
        self._oldest: list[tuple[int, int, OrderedDict[E, None]]] = []
        self._passed: list[tuple[int, int, OrderedDict[E, None]]] = []

    def __bool__(self) -> bool:
        return bool(self._jobs)

    def add(self, entry: E) -> None:
        job = (entry.priority, entry.job)
        if job not in self._jobs:
            self._jobs[job] = OrderedDict()
            heappush(self._oldest, (-entry.priority, entry.number, self._jobs[job]))
        self._jobs[job][entry] = None

    def remove(self, entry: E) -> None:
        job = (entry.priority, entry.job)
        del self._jobs[job][entry]
        if not self._jobs[job]:
            del self._jobs[job]

    def head(self) -> E | None:
        """Whose turn it is, leaving out the jobs that were passed over."""
        while self._oldest:
            priority, number, windows = self._oldest[0]
            if not windows:
                heappop(self._oldest)
            elif (oldest := next(iter(windows))).number != number:
                heapreplace(self._oldest, (priority, oldest.number, windows))
            else:
                return oldest
        return None

    def pass_over(self) -> None:
        """The job at the head."""
        self._passed.append(heappop(self._oldest))

    def call_back(self) -> None:
        """All jobs that were passed over."""
        for job in self._passed:
            heappush(self._oldest, job)
        self._passed.clear()


class Line(Generic[E]):
    """Windows that wait, in fair order. ``rank`` says how far back in it a tenant stands; least is first.

    What adding, removing or picking one costs hardly grows with how many wait, only with how many tenants do.
    """

    def __init__(self, rank: Callable[[Account], Any]) -> None:
        self._rank = rank
        self._waiting: OrderedDict[E, None] = OrderedDict()
        self._queues: dict[Hashable, dict[Account, _Queue[E]]] = {}
        self._numbers = count()
        self._overdrawn = 0.0  # engine seconds that overdue ones have had beyond their share

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, entry: E) -> bool:
        return entry in self._waiting

    def __iter__(self) -> Iterator[E]:
        """As they came."""
        return iter(self._waiting)

    def add(self, entry: E, now: float) -> None:
        entry.number, entry.since = next(self._numbers), now
        self._insert(entry)

    def put_back(self, entry: E) -> None:
        """One that was picked, and is settled, waits again: as old as it was, before all that came."""
        entry.wait_again()
        self._insert(entry)
        self._waiting.move_to_end(entry, last=False)

    def _insert(self, entry: E) -> None:
        self._waiting[entry] = None
        self._queues.setdefault(entry.key, {}).setdefault(entry.account, _Queue()).add(entry)

    def remove(self, entry: E) -> None:
        del self._waiting[entry]
        queues = self._queues[entry.key]
        queues[entry.account].remove(entry)
        if not queues[entry.account]:
            del queues[entry.account]
        if not queues:
            del self._queues[entry.key]

    def fairest(self) -> E:
        """Of the tenant with the least rank, the window of the highest priority, and of these the oldest."""
        heads = (queue.head() for queues in self._queues.values() for queue in queues.values())
        return min((head for head in heads if head), key=self._order)

    def next(self, now: float) -> E:
        """The fairest; at times one that is overdue, to be told only by those who take it out of the line."""
        overdue = self._overdue(now)
        taken = overdue or self.fairest()
        self._book(taken.worth, overdue=overdue is not None)
        return taken

    def pick(self, now: float, most: int) -> list[E]:
        """The next one and those that share its key, in fair order, at most ``most``; all of them are charged.

        No job has more than half of them while windows of other jobs could take the rest.
        """
        overdue = self._overdue(now)
        first = overdue or self.fairest()
        self._charge(first)
        picked = [first]
        queues = [*self._queues.get(first.key, {}).values()]
        self._fill(picked, queues, most, of_one_job=max(1, most // 2))
        for queue in queues:
            queue.call_back()
        self._fill(picked, queues, most, of_one_job=most)
        self._book(sum(entry.worth for entry in picked), overdue=overdue is not None)
        return picked

    def _overdue(self, now: float) -> E | None:
        oldest = next(iter(self._waiting))
        return oldest if not self._overdrawn and now - oldest.since > OVERDUE_SECONDS else None

    def _book(self, seconds: float, *, overdue: bool) -> None:
        self._overdrawn = seconds if overdue else max(0.0, self._overdrawn - OVERDUE_SHARE * seconds)

    def _fill(self, picked: list[E], queues: list[_Queue[E]], most: int, *, of_one_job: int) -> None:
        jobs = Counter(entry.job for entry in picked)
        turns = [(*self._order(head), queue) for queue in queues if (head := queue.head())]
        heapify(turns)
        while turns and len(picked) < most:
            queue = turns[0][-1]
            while (head := queue.head()) and jobs[head.job] >= of_one_job:
                queue.pass_over()
            if head:
                self._charge(head)
                picked.append(head)
                jobs[head.job] += 1
            if following := queue.head():
                heapreplace(turns, (*self._order(following), queue))
            else:
                heappop(turns)

    def _order(self, head: E) -> tuple[Any, int, int]:
        return self._rank(head.account), -head.priority, head.number

    def _charge(self, entry: E) -> None:
        self.remove(entry)
        entry.pick()

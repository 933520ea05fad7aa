"""Who is next, shown by numbers: nothing here waits, and a window takes as long as it says."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import count
from operator import attrgetter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.engines.fairness import OVERDUE_SECONDS, Account, Accounts, Entry, Line


@dataclass(slots=True, eq=False, kw_only=True)
class Asked(Entry):
    """``takes``: engine seconds, whatever was expected."""

    name: str
    takes: float


class Lane:
    """One lane and those who wait for it; ``expected`` is how an engine mistakes the seconds that a window takes."""

    def __init__(self, *, most: int = 8, expected: Callable[[float], float] = float) -> None:
        self.most, self.expected = most, expected
        self.accounts, self.line = Accounts(), Line[Asked](attrgetter("had"))
        self.now = 0.0
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._jobs = count()

    def ask(
        self, name: str, takes: float = 1.0, *, job: Any = None, weight: float = 1.0, priority: int = 0, key: int = 0
    ) -> Asked:
        """A window, of a job of its own if none is named."""
        job = next(self._jobs) if job is None else job
        account = self.accounts.of(name, weight)
        asked = Asked(account=account, job=job, priority=priority, key=key, name=name, takes=takes)
        asked.expect(self.expected(takes))
        self.line.add(asked, self.now)
        return asked

    def pick(self) -> list[Asked]:
        return self.line.pick(self.now, self.most)

    def end(self, batch: Sequence[Asked]) -> None:
        for asked in batch:
            asked.seconds = asked.takes
            self.seconds[asked.name] += asked.takes
            self.now += asked.takes
            asked.settle()

    def run(self) -> list[Asked]:
        batch = self.pick()
        self.end(batch)
        return batch

    def names(self) -> list[str]:
        """Of those in the next batch."""
        return [asked.name for asked in self.run()]


def jain(shares: Iterable[float]) -> float:
    """1: all have the same; 1 / n: one has everything (Jain, Chiu, Hawe 1984)."""
    shares = [*shares]
    return sum(shares) ** 2 / (len(shares) * sum(share**2 for share in shares))


def while_all_have_work(lane: Lane) -> None:
    left = Counter(asked.name for asked in lane.line)
    while all(left.values()):
        left.subtract(lane.names())


FIVE = {"one": (0.1, 900), "two": (0.2, 600), "three": (0.4, 300), "four": (0.8, 200), "five": (1.6, 150)}
WRONG: dict[str, Callable[[float], float]] = {
    "right": float,
    "ten times": lambda seconds: seconds * 10,
    "a tenth": lambda seconds: seconds / 10,
    "nothing": lambda _: 0.0,
    "all alike": lambda _: 1.0,
}


@pytest.mark.parametrize("most", [1, 8, 16])
@pytest.mark.parametrize("expected", WRONG.values(), ids=WRONG)
def test_five_tenants_of_unequal_load_have_the_same_seconds_while_all_have_work(
    most: int, expected: Callable[[float], float]
) -> None:
    lane = Lane(most=most, expected=expected)
    for name, (takes, windows) in FIVE.items():
        for n in range(windows):
            lane.ask(name, takes, job=(name, n // 4), priority=n % 3)
    while_all_have_work(lane)
    assert sum(lane.seconds.values()) > 300
    assert jain(lane.seconds.values()) >= 0.95


@pytest.mark.parametrize("expected", WRONG.values(), ids=WRONG)
def test_seconds_follow_the_weights(expected: Callable[[float], float]) -> None:
    lane = Lane(expected=expected)
    weights = dict(zip(FIVE, (1, 2, 3, 4, 0.5), strict=True))
    for name, (takes, windows) in FIVE.items():
        for _ in range(windows):
            lane.ask(name, takes, weight=weights[name])
    while_all_have_work(lane)
    assert jain(lane.seconds[name] / weights[name] for name in FIVE) >= 0.95


def test_tenants_take_turns_within_a_batch() -> None:
    lane = Lane(most=6)
    for name in ("a", "b", "c"):
        for _ in range(9):
            lane.ask(name)
    assert lane.names() == ["a", "b", "c", "a", "b", "c"]


def test_one_tenant_alone_has_every_place_of_a_batch() -> None:
    lane = Lane()
    for _ in range(20):
        lane.ask("a")
    assert [len(lane.run()) for _ in range(3)] == [8, 8, 4]


@pytest.mark.parametrize("expected", WRONG.values(), ids=WRONG)
@pytest.mark.parametrize("key", [0, 1], ids=["same key", "other key"])
@pytest.mark.parametrize("lanes", [1, 2])
def test_who_asks_once_beside_a_tenant_with_a_thousand_jobs_is_heard_within_two_batches(
    lanes: int, key: int, expected: Callable[[float], float]
) -> None:
    lane = Lane(most=16, expected=expected)
    for job in range(1000):
        lane.ask("a", job=job)
    for track in range(50 * 8):
        lane.ask("a", job=("tracks", track // 8))
    running = [lane.pick() for _ in range(lanes)]
    for _ in range(9):
        lane.end(running.pop(0))
        running.append(lane.pick())
    only = lane.ask("b", key=key)
    following = []
    for _ in range(2):
        lane.end(running.pop(0))
        running.append(lane.pick())
        following += running[-1]
    assert only in following


def test_a_tenant_that_comes_back_has_no_credit_for_having_been_away() -> None:
    lane = Lane(most=4)
    lane.ask("b")
    for _ in range(100):
        lane.ask("a")
    for _ in range(10):
        lane.run()
    for _ in range(100):
        lane.ask("b")
    assert [Counter(lane.names()) for _ in range(5)] == [Counter(a=2, b=2)] * 5


def test_a_tenant_that_asks_for_one_window_after_another_is_not_forgiven_what_it_had() -> None:
    """Its window takes as long as ten of the other's, and its next one comes when it is answered."""
    lane = Lane(most=1)
    for _ in range(300):
        lane.ask("a")
    lane.ask("b", 10)
    for _ in range(200):
        if any(asked.name == "b" for asked in lane.run()):
            lane.ask("b", 10)
    assert jain(lane.seconds.values()) >= 0.95


def test_who_comes_when_nobody_waits_starts_level_with_who_is_running() -> None:
    lane = Lane(most=1)
    for _ in range(50):
        lane.ask("a")
        lane.run()
    lane.ask("a")
    running = lane.pick()
    for _ in range(20):
        lane.ask("b")
    for _ in range(20):
        lane.ask("a")
    lane.end(running)
    assert Counter(name for _ in range(11) for name in lane.names()) == Counter(a=5, b=6), "b is not level with a"


def test_tenants_that_have_left_are_forgotten() -> None:
    lane = Lane()
    for n in range(1000):
        lane.ask(f"tenant-{n}")
        lane.run()
    assert len(lane.accounts) <= 2


def test_a_window_that_is_given_up_costs_its_tenant_nothing() -> None:
    lane = Lane(most=2)
    for _ in range(5):
        given_up = lane.ask("a", 100)
        lane.line.remove(given_up)
        given_up.leave()
    lane.ask("a")
    lane.ask("b")
    account = lane.accounts.of("a", 1.0)
    assert (account.had, account.claim, account.waiting) == (0, 1, 2)
    assert lane.names() == ["a", "b"]


def test_of_one_tenant_the_highest_priority_goes_first_and_then_the_oldest() -> None:
    lane = Lane(most=6)
    asked = [lane.ask("a", priority=priority) for priority in (0, 1, -1, 1, 0, -1)]
    assert lane.run() == [asked[place] for place in (1, 3, 0, 4, 2, 5)]


def test_priority_says_nothing_to_other_tenants() -> None:
    lane = Lane(most=4)
    for _ in range(4):
        lane.ask("a", priority=1)
        lane.ask("b", priority=-1)
    assert Counter(lane.names()) == Counter(a=2, b=2)


@pytest.mark.parametrize(
    ("windows", "others", "taken"),
    [(20, 20, 4), (20, 3, 5), (20, 0, 8), (2, 20, 2)],
    ids=["half", "what others leave", "alone", "fewer than half"],
)
@pytest.mark.parametrize("other", ["a", "b"], ids=["same tenant", "another"])
def test_one_job_has_half_a_batch_and_what_others_leave_of_it(
    windows: int, others: int, taken: int, other: str
) -> None:
    lane = Lane(most=8)
    long = [lane.ask("a", job="long") for _ in range(windows)]
    for _ in range(others):
        lane.ask(other)
    batch = lane.run()
    assert len(set(batch) & set(long)) == taken
    assert len(batch) == 8


def test_jobs_that_had_their_half_are_next_in_their_order_afterwards() -> None:
    lane = Lane(most=4)
    long = [lane.ask("a", job="long") for _ in range(6)]
    short = [lane.ask("a") for _ in range(2)]
    assert lane.run() == [*long[:2], *short]
    assert lane.run() == long[2:]


def test_a_window_that_is_overdue_goes_before_its_tenants_more_urgent_ones() -> None:
    lane = Lane(most=1)
    late = lane.ask("a", priority=-1)
    for _ in range(200):
        lane.ask("a", priority=1)
    order = [asked for _ in range(70) for asked in lane.run()]
    assert OVERDUE_SECONDS < order.index(late) < OVERDUE_SECONDS + 5


def test_a_window_that_is_overdue_goes_first_whatever_its_key_and_tenant() -> None:
    lane = Lane(most=2)
    lane.ask("b")
    lane.ask("heavy", 500)
    lane.ask("b")
    assert lane.names() == ["b", "heavy"]
    late = lane.ask("heavy", key=1)
    for _ in range(300):
        lane.ask("b")
    batches = [lane.run() for _ in range(40)]
    assert [late] in batches, "it waits until the others have had as much"
    assert batches.index([late]) >= OVERDUE_SECONDS / 2


def test_where_every_window_is_overdue_the_order_stays_fair() -> None:
    lane = Lane(most=1)
    for name in ("a", "b"):
        for _ in range(400):
            lane.ask(name)
    lane.now += 2 * OVERDUE_SECONDS
    for _ in range(100):
        lane.run()
    assert jain(lane.seconds.values()) >= 0.99


@pytest.mark.parametrize("runs", range(30))
def test_overdue_windows_keep_nobody_from_the_second_batch(runs: int) -> None:
    lane = Lane(most=2)
    for n in range(200):
        lane.ask("a", job=n)
    lane.now += 2 * OVERDUE_SECONDS
    for _ in range(runs):
        lane.run()
    running = lane.pick()
    only = lane.ask("b", key=1)
    lane.end(running)
    assert only in lane.run() + lane.run()


WINDOWS = st.tuples(
    st.sampled_from("abc"), st.integers(0, 4), st.integers(-1, 1), st.integers(0, 1), st.sampled_from([0.0, 0.5, 7.0])
)


@given(st.lists(st.lists(WINDOWS, max_size=12), max_size=6), st.integers(1, 6), st.data())
def test_no_window_is_lost_or_picked_twice_and_a_batch_has_one_key_and_its_size(
    arrivals: list[list[tuple[str, int, int, int, float]]], most: int, data: st.DataObject
) -> None:
    lane = Lane(most=most)
    asked: list[Asked] = []
    gone: list[Asked] = []

    def run() -> None:
        batch = lane.run()
        gone.extend(batch)
        assert 1 <= len(batch) <= most
        assert len({window.key for window in batch}) == 1
        left = [window for window in lane.line if window.key == batch[0].key]
        assert len(batch) == most or not left, "a batch had room for more"
        jobs = Counter(window.job for window in batch)
        for job, windows in jobs.items():
            assert windows <= max(1, most // 2) or all(window.job == job for window in left if window.job not in jobs)

    for arrived in arrivals:
        for name, job, priority, key, takes in arrived:
            asked.append(lane.ask(name, takes, job=(name, job), priority=priority, key=key))
        for given_up in data.draw(st.lists(st.sampled_from([*lane.line]), unique=True)) if len(lane.line) else ():
            lane.line.remove(given_up)
            given_up.leave()
            gone.append(given_up)
        if len(lane.line):
            run()
    while len(lane.line):
        run()
    assert Counter(map(id, gone)) == Counter(map(id, asked))
    for account in {window.account for window in asked}:
        assert account.waiting == 0
        assert (account.running, account.ready) == pytest.approx((0, 0))


@given(st.lists(WINDOWS, min_size=1, max_size=30), st.integers(1, 6))
def test_within_a_tenant_no_window_of_the_same_key_is_passed_by_a_younger_or_less_urgent_one(
    arrived: list[tuple[str, int, int, int, float]], most: int
) -> None:
    lane = Lane(most=most)
    waiting: defaultdict[tuple[str, Hashable], list[Asked]] = defaultdict(list)
    for name, _, priority, key, takes in arrived:  # each a job of its own: no half is ever full
        asked = lane.ask(name, takes, priority=priority, key=key)
        waiting[name, key].append(asked)
    for windows in waiting.values():
        windows.sort(key=lambda window: -window.priority)
    while len(lane.line):
        lane.now = 0.0  # nothing is ever overdue
        for asked in lane.run():
            assert asked is waiting[asked.name, asked.key].pop(0)


def test_what_a_batch_costs_does_not_grow_with_how_many_wait() -> None:
    def ranked(windows: int) -> int:
        """How often the rank of a tenant is asked for, to pick one batch."""
        asked = 0

        def rank(account: Account) -> float:
            nonlocal asked
            asked += 1
            return account.had

        accounts, line = Accounts(), Line[Entry](rank)
        for n in range(windows):
            line.add(Entry(account=accounts.of(n % 5, 1.0), job=n // 50, key=n % 3), 0.0)
        assert len(line.pick(0.0, 16)) == 16
        return asked

    assert ranked(10_000) == ranked(1000)

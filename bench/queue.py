"""What the queue does in a second, and what fairness costs: on a PostgreSQL of its own, with every commit on disk.

claims              ours and a plain one, turn about, on one connection, beside 0 (a look that finds none) … 10⁶ jobs
in SQL              submit ▸ claim ▸ commit: the same statements, sent by pgbench
through the store   submit ▸ claim ▸ commit: one process of Python
through the chain   uploads ▸ all stages, with the mock engine ▸ transcripts
"""

from __future__ import annotations

import tempfile
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter
from typing import Final

import anyio
from anyio import to_thread

from bench import Benchmark, shortest
from bench.backlog import REQUEST, empty, fill
from bench.figures import Figure, Report
from bench.made import TRANSCRIPT, USAGE
from bench.pgbench import CLAIM, CONNECTIONS, CYCLE, SUBMIT, Script
from bench.plain import PlainQueue, make
from bench.server import Server
from pipeline.claim import Claim
from pipeline.jobs import Tenant
from pipeline.settings import QueueSettings
from pipeline.store import JobQueue
from pipeline.store.postgres import PostgresStore
from pipeline.store.postgres.database import Database

TENANTS: Final = 10_000
AT_ONCE: Final = 8  # tasks of the one process, each with a connection
LEASE: Final = 60.0
UNBOUNDED: Final = QueueSettings(max_pending=None)
WARMING: Final = 50  # claims before those that are timed: statements are prepared, pages read

FACTOR: Final = 2.0  # a fair claim over a plain one
SLOWEST: Final = 3.0  # ms: the 99th percentile of a claim beside the most jobs that wait
IN_SQL: Final = 600.0  # cycles a second
THROUGH: Final = 250.0  # jobs a second through the whole chain

Act = Callable[[], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Extent:
    """``cycles``: after so many the tables are weighed. ``jobs``: through the chain."""

    pending: Sequence[int]
    claims: int
    seconds: int
    cycles: int
    jobs: int


FULL: Final = Extent((0, 100_000, 1_000_000), claims=3000, seconds=10, cycles=100_000, jobs=2000)
QUICK: Final = Extent((0, 100_000), claims=500, seconds=3, cycles=2000, jobs=200)


def run(quick: bool) -> Report:
    extent = QUICK if quick else FULL
    with tempfile.TemporaryDirectory() as folder:
        return measure(Path(folder), extent)


def measure(folder: Path, extent: Extent) -> Report:
    return Report("queue", _told(extent), anyio.run(_measure, folder, extent))


async def _measure(folder: Path, extent: Extent) -> list[Figure]:
    async with Server(folder) as server:
        figures: list[Figure] = []
        for pending in extent.pending:
            figures += await _claims(server, pending, extent)
        figures += await _rates(server, folder, extent)
        figures += await _sizes(server, folder, extent)
        figures += await _chain(server, folder, extent)
    return figures


async def _claims(server: Server, pending: int, extent: Extent) -> list[Figure]:
    """Turn about, so that what else the machine does falls on both; what was claimed is finished in between."""
    admin = await server.connected()
    await empty(admin)
    await fill(admin, jobs=pending, tenants=min(pending, TENANTS))
    await make(admin)
    database = Database(server.dsn, pool_size=1, pooled=False)
    await database.open()
    try:
        async with PostgresStore(server.dsn, pool_size=1) as store:
            fair, plain = await _timed(store.queue(), PlainQueue(database), extent.claims)
    finally:
        await database.close()
    most = pending == max(extent.pending)
    return list(_latencies(pending, fair, plain, most=most))


async def _timed(queue: JobQueue, plain: PlainQueue, claims: int) -> tuple[list[float], list[float]]:
    """Milliseconds of each claim, ours and the plain ones."""
    ours, theirs = [], []
    for _ in range(WARMING + claims):
        began = perf_counter()
        claim = await queue.claim(replica="bench", lease_seconds=LEASE)
        ours.append(1000 * (perf_counter() - began))
        began = perf_counter()
        job = await plain.claim(replica="bench", lease_seconds=LEASE)
        theirs.append(1000 * (perf_counter() - began))
        if claim and job:
            await _finish(queue, claim)
            await plain.finish(job.id)
    return ours[WARMING:], theirs[WARMING:]


def _latencies(pending: int, fair: Sequence[float], plain: Sequence[float], *, most: bool) -> Iterator[Figure]:
    beside = f"claim, {pending:,} waiting" if pending else "look into an empty queue"
    yield Figure(f"{beside}: median", [median(fair)], "ms")
    yield Figure(f"{beside}: 99th percentile", [_p99(fair)], "ms", at_most=SLOWEST if most else None)
    yield Figure(f"{beside}: plain, median", [median(plain)], "ms")
    yield Figure(f"{beside}: plain, 99th percentile", [_p99(plain)], "ms")
    if pending:
        yield Figure(f"{beside}: fair over plain", [median(fair) / median(plain)], at_most=FACTOR)


async def _rates(server: Server, folder: Path, extent: Extent) -> list[Figure]:
    """Beside the backlog that the claims have left."""
    limit = ("-T", f"{extent.seconds}")

    async def in_sql(script: Script) -> float:
        return await to_thread.run_sync(partial(script.run, folder, server.dsn, TENANTS, *limit))

    figures = [
        Figure("submits in SQL", [await in_sql(SUBMIT)], "/s"),
        Figure("claims in SQL", [await in_sql(CLAIM)], "/s"),
        Figure("full cycles in SQL", [await in_sql(CYCLE)], "/s", at_least=IN_SQL),
    ]
    async with PostgresStore(server.dsn, pool_size=AT_ONCE, settings=UNBOUNDED) as store:
        queue, numbers = store.queue(), count()

        async def submit() -> None:
            await store.tenant(Tenant(f"tenant-{next(numbers) % TENANTS:05}")).submit(REQUEST)

        async def work() -> None:
            if claim := await queue.claim(replica="bench", lease_seconds=LEASE):
                await _finish(queue, claim)

        async def cycle() -> None:
            await submit()
            await work()

        for name, act in (("submits", submit), ("claims and commits", work), ("full cycles", cycle)):
            figures.append(Figure(f"{name} through the store", [await _rate(act, extent.seconds)], "/s"))
    return figures


async def _rate(act: Act, seconds: float) -> float:
    """How often a second, by so many tasks at once."""
    done, began = 0, perf_counter()

    async def repeat() -> None:
        nonlocal done
        while perf_counter() - began < seconds:
            await act()
            done += 1

    async with anyio.create_task_group() as group:
        for _ in range(AT_ONCE):
            group.start_soon(repeat)
    return done / (perf_counter() - began)


async def _sizes(server: Server, folder: Path, extent: Extent) -> list[Figure]:
    """Of tables that were new, after so many cycles beside a small backlog."""
    admin = await server.connected()
    await empty(admin)
    await fill(admin, jobs=TENANTS, tenants=TENANTS)
    limit = ("-t", str(extent.cycles // CONNECTIONS))
    await to_thread.run_sync(partial(CYCLE.run, folder, server.dsn, TENANTS, *limit))
    tables = [("jobs", "jobs"), ("hot tables", "leases,tenants,charges"), ("all else", "attempts,transcripts,usage")]
    return [
        Figure(f"{name} after {extent.cycles:,} cycles: {what}", [await _megabytes(server, size, names)], "MB")
        for name, names in tables
        for what, size in (("rows", "pg_table_size"), ("indexes", "pg_indexes_size"))
    ]


async def _megabytes(server: Server, size: str, names: str) -> float:
    statement = f"SELECT sum({size}(('antiphon.' || name)::regclass)) FROM unnest(string_to_array($1, ',')) AS name"
    return await server.count(statement, names) / 1e6


async def _chain(server: Server, folder: Path, extent: Extent) -> list[Figure]:
    await empty(await server.connected())
    async with PostgresStore(server.dsn) as store:
        ends = await shortest.ends(store, folder, extent.jobs)
        whole = await shortest.whole(store, folder, extent.jobs)
    return [
        Figure("jobs through claimer and committer alone", [ends], "/s"),
        Figure("jobs through the whole chain", [whole], "/s", at_least=THROUGH),
    ]


async def _finish(queue: JobQueue, claim: Claim) -> None:
    claim.engine_seconds = 10.0
    await queue.commit(claim, TRANSCRIPT, USAGE)


def _p99(times: Sequence[float]) -> float:
    return quantiles(times, n=100, method="inclusive")[-1]


def _told(extent: Extent) -> dict[str, str]:
    return {
        "PostgreSQL": "the embedded one, as the service runs it: fsync on",
        "waiting": f"jobs of {TENANTS:,} tenants, of which one has half of them",
        "claims": f"{extent.claims:,} of each kind on one connection",
        "in SQL": f"pgbench, {CONNECTIONS} connections, {extent.seconds} s; transcripts of 8 kB",
        "through the store": f"{AT_ONCE} tasks of one process",
        "through the chain": f"{extent.jobs:,} uploads of {shortest.SECONDS:g} s, {shortest.IN_FLIGHT} in flight",
    }


BENCHMARK: Final = Benchmark(
    "queue",
    "submits, claims and whole cycles a second; a fair claim beside a plain one",
    f"≤ {FACTOR:g} × the plain claim, p99 ≤ {SLOWEST:g} ms; ≥ {IN_SQL:g} cycles/s in SQL, ≥ {THROUGH:g} jobs/s",
    run,
)
